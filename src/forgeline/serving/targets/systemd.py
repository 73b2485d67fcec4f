"""A service of systemd: its socket unit holds the port, its service unit the keeper, which updates as elsewhere."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from forgeline.config.schema import Config
from forgeline.config.schema.serve.targets.systemd import Systemd as Settings
from forgeline.errors import ServingError
from forgeline.serving.order import Order
from forgeline.serving.sockets import BACKLOG, listen
from forgeline.serving.targets import Check, Job, Plan, Running, forget, refuse, remember, remembered
from forgeline.serving.targets.kept import LOG_LINES, Kept, Served, health, patience

NAME = "systemd"
LEFT_SECONDS = 30  # that all may take to be gone, beside the gateway's drain
SYSTEM_UNITS = Path("/etc/systemd/system")
ADDRESSES = "AF_UNIX AF_INET AF_INET6 AF_NETLINK"
# What any manager can do; a user's has no right to more where users may make no namespaces.
HARDENED = {
    "NoNewPrivileges": "yes",
    "UMask": "0077",
    "LockPersonality": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "RestrictAddressFamilies": ADDRESSES,
    "SystemCallArchitectures": "native",
}
# MemoryDenyWriteExecute is not among them: torch writes the code of its kernels while it runs.
HARDENED_BY_THE_SYSTEM = {
    "ProtectSystem": "strict",
    "ProtectHome": "read-only",
    "PrivateTmp": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectControlGroups": "yes",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "RestrictNamespaces": "yes",
    "CapabilityBoundingSet": "",
}


class Journaled(Kept):
    """A keeper whose log is the journal's."""

    def __init__(self, root: Path, manager: Manager, unit: str) -> None:
        super().__init__(root, NAME)
        self._manager = manager
        self._unit = unit

    def mark(self) -> int:
        """Return the time, as the journal takes it."""
        return int(time.time())

    def tail(self, since: int) -> str:
        """Return the last lines of the unit since then."""
        return "\n".join(
            ["the end of its journal:", *self._manager.journal(self._unit, LOG_LINES, f"--since=@{since}")]
        )


class Manager:
    """systemd, the system's or a user's."""

    def __init__(self, scope: str) -> None:
        self.units = SYSTEM_UNITS if scope == "system" else _own_units()
        self._scope = [] if scope == "system" else ["--user"]

    def do(self, *asked: str) -> str:
        """Return what `systemctl` prints.

        Raises:
            ServingError: if it is not there, there is no manager, or it refuses.
        """
        done = self._run("systemctl", *asked)
        if done.returncode:
            raise ServingError(f"systemctl {' '.join(asked)}: {_one_line(done.stderr) or f'code {done.returncode}'}.")
        return done.stdout

    def property(self, unit: str, name: str) -> str:
        """Return one property of a unit."""
        return self.do("show", "--value", f"--property={name}", unit).strip()

    def journal(self, unit: str, lines: int, *more: str) -> list[str]:
        """Return the last lines that a unit logged."""
        which = "--user-unit" if self._scope else "--unit"
        done = self._run("journalctl", "--no-pager", "--output=cat", f"--lines={lines}", f"{which}={unit}", *more)
        return [line for line in done.stdout.splitlines() if line != "-- No entries --"]

    def _run(self, tool: str, *asked: str) -> subprocess.CompletedProcess[str]:
        scope = self._scope if tool == "systemctl" else []
        try:
            return subprocess.run([tool, *scope, *asked], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise ServingError(f"{tool} is not there: this machine has no systemd; use the target local.") from None


class Systemd:
    """The target `systemd`."""

    tried = "run for real under a user's manager; under the system's only verified"

    def plan(self, job: Job) -> Plan:
        """Return the units and the order; `systemd-analyze verify` looks at them where it is."""
        config, unit = job.config, _unit(job.config)
        order = _order(job)
        kept = Kept(config.root.resolve(), NAME)
        units = {f"{unit}.socket": _socket(config), f"{unit}.service": _service(config, kept)}
        if faults := [*_faults(config, unit), *_refused(units, config.serve.targets.systemd)]:
            refuse(NAME, faults)
        against = "systemd-analyze verify" if shutil.which("systemd-analyze") else "what systemd.unit(5) takes"
        checks = [Check(str(job.bundle), "the digests of its manifest"), *(Check(name, against) for name in units)]
        return Plan(
            files={**units, "order.json": order.model_dump_json(indent=2) + "\n"},
            checks=(*checks, Check("order.json", "configs/serve.yaml's schema")),
            acts=(
                f"{' and '.join(units)} into {Manager(config.serve.targets.systemd.scope).units}",
                f"systemctl enable --now {' '.join(units)}; if it runs, a new gateway beside the old one",
                "the smoke test",
            ),
        )

    def deploy(self, job: Job, plan: Plan) -> dict[str, Any]:
        """Install and start the units, or update what they run without dropping a request."""
        config, order = job.config, _order(job)
        root, scope = config.root.resolve(), config.serve.targets.systemd.scope
        unit, manager = _unit(config), Manager(scope)
        manager.do("show-environment")  # is there a manager?
        kept = Journaled(root, manager, unit)
        served = Served.ordered(kept.path(), order, job.manifest)
        with kept.locked():
            current = kept.read(Served)
            if current and manager.property(f"{unit}.service", "ActiveState") == "active":
                if current.is_as(order, job.manifest) and health(current) == "ready":
                    return _facts(current, unit)
                if (current.serve.host, current.serve.port) != (order.serve.host, order.serve.port):
                    raise ServingError(
                        "serve.host or serve.port is another, and systemd holds the socket: run "
                        "`forgeline deploy destroy --target systemd` first."
                    )
                _install(plan, manager)
                kept.update(order, served, None, lambda tried: job.smoke(tried.url))
                return _facts(served, unit)
            _take_down(manager, unit)
            listen(order.serve.host, order.serve.port).close()  # a taken port is told before anything is started
            order.save(served.order)
            kept.save(served)
            remember(root, NAME, {"unit": unit, "scope": scope})
            began = kept.mark()
            try:
                _install(plan, manager)
                manager.do("enable", f"{unit}.socket", f"{unit}.service")
                manager.do("start", "--no-block", f"{unit}.socket", f"{unit}.service")
                kept.await_ready(served, lambda: _ended(manager, unit), began)
                job.smoke(served.url)
            except BaseException:
                self.destroy(root)
                raise
            kept.tidy(served.order)
        return _facts(served, unit)

    def status(self, root: Path) -> Running | None:
        """Return how the service is."""
        found = _found(root)
        if found is None:
            return None
        _, manager, unit, served = found
        state, restarts = (manager.property(f"{unit}.service", name) for name in ("ActiveState", "NRestarts"))
        facts = {"unit": f"{unit}.service", "state": state, "restarts": restarts, "since": served.started_at}
        facts |= {"bundle": str(served.bundle), "digest": served.digest}
        how = health(served) if state == "active" else "not ready" if state == "activating" else "gone"
        return Running(health=how, version=served.version, url=served.url, facts=facts)

    def logs(self, root: Path, lines: int) -> Iterator[str]:
        """Yield the last lines of its journal."""
        if found := _found(root):
            _, manager, unit, _ = found
            yield from (f"{line}\n" for line in manager.journal(f"{unit}.service", lines))

    def destroy(self, root: Path) -> dict[str, Any] | None:
        """Stop the service once what is in flight has finished, and remove its units."""
        found = _found(root)
        if found is None:
            return None
        kept, manager, unit, _ = found
        _take_down(manager, unit)
        kept.forget()
        forget(root, NAME)
        return {"unit": unit}


def _socket(config: Config) -> str:
    host, port = config.serve.host, config.serve.port
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    wanted = {"Description": f"Forgeline: where {config.project.name} is asked"}
    return _rendered(
        {
            "Unit": wanted,
            "Socket": {"ListenStream": where, "Backlog": BACKLOG},
            "Install": {"WantedBy": "sockets.target"},
        }
    )


def _service(config: Config, kept: Kept) -> str:
    serve, asked, root = config.serve, config.serve.targets.systemd, str(kept.root)
    whole = asked.scope == "system"
    service: dict[str, Any] = {
        "Type": "notify",
        "ExecStart": " ".join(_word(each) for each in kept.command(kept.state)),
        "WorkingDirectory": root.replace("%", "%%"),
        "Restart": "on-failure",
        "RestartSec": 1,
        "KillMode": "mixed",  # the keeper is told, and what it leaves is killed
        "TimeoutStartSec": patience(serve),
        "TimeoutStopSec": round(serve.drain_timeout) + LEFT_SECONDS,
        **({"User": asked.user} if asked.user else {}),
        **({"EnvironmentFile": asked.environment.replace("%", "%%")} if asked.environment else {}),
        **({"MemoryMax": asked.memory} if asked.memory else {}),
        **HARDENED,
        **({**HARDENED_BY_THE_SYSTEM, "ReadWritePaths": _word(root)} if whole else {}),
    }
    needs = f"{_unit(config)}.socket"
    about = {"Description": f"Forgeline: {config.project.name}", "Requires": needs, "After": f"{needs} network.target"}
    wanted = {"WantedBy": "multi-user.target" if whole else "default.target"}
    return _rendered({"Unit": about, "Service": service, "Install": wanted})


def _rendered(sections: dict[str, dict[str, Any]]) -> str:
    blocks = (
        "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in lines.items())])
        for name, lines in sections.items()
    )
    return "\n\n".join(blocks) + "\n"


def _word(text: str) -> str:
    """Return one word of a command line as systemd reads it: systemd.syntax(7), and its variables and specifiers."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return escaped if re.fullmatch(r"[\w@%+=:,./$-]+", escaped) else f'"{escaped}"'


def _faults(config: Config, unit: str) -> list[str]:
    """Return what no unit file can say of the settings."""
    faults = []
    try:
        ipaddress.ip_address(config.serve.host)
    except ValueError:
        faults.append(f"{unit}.socket, [Socket] ListenStream: serve.host is {config.serve.host}; give its IP address")
    if re.search(r"[\x00-\x1f\x7f]", str(config.root)):
        faults.append(f"{unit}.service, [Service] WorkingDirectory: {config.root!s:.80} has a control character")
    return faults


def _refused(units: dict[str, str], asked: Settings) -> list[str]:
    """Return what `systemd-analyze verify` says of units; nothing where it is not installed."""
    if not shutil.which("systemd-analyze"):
        return []
    with tempfile.TemporaryDirectory() as folder:
        for name, text in units.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        scope = "--system" if asked.scope == "system" else "--user"
        command = ["systemd-analyze", scope, "--man=no", "--recursive-errors=no", "verify"]
        done = subprocess.run(
            [*command, *(f"{folder}/{name}" for name in units)],
            env=os.environ | {"XDG_RUNTIME_DIR": folder},  # without one it looks at nothing
            capture_output=True,
            text=True,
            check=False,
        )
    lines = [line.replace(f"{folder}/", "") for line in done.stderr.splitlines()]
    faults = [line for line in lines if line.startswith(tuple(f"{name}:" for name in units))]
    return faults or (lines if done.returncode else [])


def _install(plan: Plan, manager: Manager) -> None:
    manager.units.mkdir(parents=True, exist_ok=True)
    for name, text in plan.files.items():
        if name.endswith((".socket", ".service")):
            try:
                (manager.units / name).write_text(text, encoding="utf-8")
            except OSError as fault:
                raise ServingError(f"{manager.units / name} cannot be written ({fault.strerror}).") from fault
    manager.do("daemon-reload")


def _take_down(manager: Manager, unit: str) -> None:
    names = [f"{unit}.socket", f"{unit}.service"]
    there = [name for name in names if (manager.units / name).exists()]
    if there:
        manager.do("disable", *there)
        manager.do("stop", *there)
        for name in there:
            (manager.units / name).unlink()
        manager.do("daemon-reload")
        with suppress(ServingError):  # it is not loaded any more, unless it had failed
            manager.do("reset-failed", *there)


def _ended(manager: Manager, unit: str) -> str | None:
    failed = manager.property(f"{unit}.service", "ActiveState") == "failed"
    restarted = int(manager.property(f"{unit}.service", "NRestarts") or 0) > 0
    return "the service failed." if failed or restarted else None


def _found(root: Path) -> tuple[Journaled, Manager, str, Served] | None:
    facts = remembered(root, NAME)
    if facts is None:
        return None
    manager = Manager(facts["scope"])
    kept = Journaled(root.resolve(), manager, facts["unit"])
    served = kept.read(Served)
    return (kept, manager, facts["unit"], served) if served else None


def _order(job: Job) -> Order:
    config = job.config
    ledger = config.root.resolve() / config.project.stores.ledger
    return Order(bundle=job.bundle.resolve(), serve=config.serve, ledger=ledger)


def _unit(config: Config) -> str:
    return f"forgeline-{config.project.name}"


def _facts(served: Served, unit: str) -> dict[str, Any]:
    return {**served.model_dump(mode="json"), "unit": f"{unit}.service"}


def _own_units() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "systemd" / "user"


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
