"""A real Chromium, driven over its DevTools protocol: https://chromedevtools.github.io/devtools-protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium")
CTRL = 2  # a modifier
KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, "")}  # key codes, and what they write
FLAGS = ["--headless=new", "--remote-debugging-port=0", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--no-first-run", "--disable-extensions", "--disable-background-networking", "--hide-scrollbars",
         "--force-color-profile=srgb", "--lang=en-GB"]  # fmt: skip


class Browser:
    """A browser process without a window; each page has storage of its own."""

    def __init__(self) -> None:
        self._profile = tempfile.mkdtemp(prefix="forgeline-browser-")
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        said = Path(self._profile) / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not (said.exists() and len(said.read_text().splitlines()) == 2):
            assert self._process.poll() is None and time.monotonic() < deadline, "chromium does not start"
            time.sleep(0.05)
        port, path = said.read_text().splitlines()
        self._host = f"ws://127.0.0.1:{port}"
        self._wire = Wire(f"{self._host}{path}")

    def page(self, width: int = 1280, height: int = 800) -> Page:
        """Return a new page."""
        context = self._wire.call("Target.createBrowserContext")["browserContextId"]
        target = self._wire.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        page = Page(f"{self._host}/devtools/page/{target}")
        page.size(width, height)
        return page

    def close(self) -> None:
        """End the process."""
        self._wire.call("Browser.close")
        self._process.wait(20)
        shutil.rmtree(self._profile, ignore_errors=True)


class Wire:
    """One connection of the protocol: calls are answered in order, events are kept."""

    def __init__(self, url: str) -> None:
        self._socket = connect(url, max_size=None, open_timeout=30)
        self._last = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return what a method returns."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while (message := json.loads(self._socket.recv(timeout=60))).get("id") != self._last:
            self.events.append(message)
        assert "error" not in message, (method, message["error"])
        result: dict[str, Any] = message["result"]
        return result


class Page(Wire):
    """One page, used as a person does: by pointer, keys and what is to be seen."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # as if its window were in front

    def open(self, url: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def see(self, script: str) -> Any:
        """Return the value of an expression, awaited."""
        how = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = self.call("Runtime.evaluate", expression=script, **how)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 15) -> Any:
        """Return the value of an expression once it is true."""
        deadline = time.monotonic() + seconds
        while not (value := self.see(script)):
            assert time.monotonic() < deadline, f"not within {seconds} s: {script}\n{self.text()[-2000:]}"
            time.sleep(0.02)
        return value

    def text(self, selector: str = "body") -> str:
        """Return the text of an element as it is to be seen."""
        return str(self.see(_shown(selector)))

    def wait_text(self, words: str, selector: str = "body") -> None:
        """Wait until an element shows some words."""
        self.wait(f"{_shown(selector)}.includes({json.dumps(words)})")

    def click(self, selector: str) -> None:
        """Press the pointer in the middle of an element, where it must be to be seen and not covered."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait(f"{found} !== null")
        x, y, hit = self.see(
            f"(() => {{ const one = {found}; one.scrollIntoView({{ block: 'center' }});"
            " const box = one.getBoundingClientRect(); const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];"
            " const top = document.elementFromPoint(x, y);"
            " return [x, y, top !== null && (one.contains(top) || top.contains(one))]; })()"
        )
        assert hit, f"{selector} is covered"
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Write into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press and release a key."""
        code, text = KEYS.get(key, (ord(key[0].upper()), key))
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def focused(self) -> str:
        """Return the role and the name of what has the focus, as a screen reader says them."""
        node = next((one for one in self.tree() if _is(one, "focused") and one["role"]["value"] != "RootWebArea"), None)
        return f"{node['role']['value']} {node['name']['value'].strip()}" if node else "nothing"

    def tree(self) -> list[dict[str, Any]]:
        """Return the nodes of the accessibility tree that a screen reader meets."""
        return [node for node in self.call("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]

    def size(self, width: int, height: int) -> None:
        """Set the size of the window in pixels; a narrow one is a telephone's."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def prefer(self, **features: str) -> None:
        """Set media features, such as `prefers_color_scheme="dark"`."""
        given = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=given)

    def network(self, offline: bool = False, latency: float = 0, rate: float = -1) -> None:
        """Make the network as slow as latency in ms and rate in bytes/s say, or cut it off."""
        limits = {"offline": offline, "latency": latency, "downloadThroughput": rate, "uploadThroughput": rate}
        self.call("Network.emulateNetworkConditions", **limits)

    def hasten(self, times: int) -> None:
        """Let what the next document does at intervals come so many times as often."""
        faster = f"(every => {{ window.setInterval = (does, ms) => every(does, ms / {times}); }})(setInterval)"
        self.call("Page.addScriptToEvaluateOnNewDocument", source=faster)

    def picture(self, path: Path) -> Path:
        """Write what is to be seen as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def complaints(self) -> list[str]:
        """Return exceptions, and what the browser logged: violations of the content policy among it."""
        self.see("0")  # takes in what came meanwhile
        found = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                found.append(event["params"]["exceptionDetails"]["exception"]["description"])
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["source"] != "network":
                found.append(event["params"]["entry"]["text"])
        return found

    def close(self) -> None:
        """Close the page."""
        self.call("Page.close")


def _shown(selector: str) -> str:
    found = f"document.querySelector({json.dumps(selector)})"
    return f"({found}?.checkVisibility() ? {found}.innerText : '')"


def _is(node: dict[str, Any], name: str) -> bool:
    return any(one["name"] == name and one["value"]["value"] for one in node.get("properties", []))
