"""The image without docker: laid out in a folder, and started there by its entrypoint with its packages alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from packaging.requirements import Requirement
from scene import HELLO, LINEAGE, PROJECT, free_port, wait_for

from forgeline.config import Config
from forgeline.config.schema import Serve
from forgeline.serving import bundle as bundles
from forgeline.serving.targets import Job
from forgeline.serving.targets.image import inside, stage

DOCKERFILE = (PROJECT / "deploy/serving.Dockerfile").read_text()


def installed() -> set[str]:
    """Return the distributions that deploy/serving.txt brings, by their names in lower case."""
    wanted = [line for line in (PROJECT / "deploy/serving.txt").read_text().splitlines() if line and line[0] != "#"]
    found, seen = set(), [(line, "") for line in wanted]
    while seen:
        line, extra = seen.pop()
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = requirement.name.lower().replace("_", "-")
        for asked in ("", *requirement.extras):
            if (name, asked) in found:
                continue
            found.add((name, asked))
            try:
                seen += [(each, asked) for each in metadata.requires(name) or ()]
            except metadata.PackageNotFoundError:  # the lock may have it, this environment does not
                continue
    return {name for name, _ in found}


def packages(folder: Path) -> Path:
    """Return a folder with links to those distributions' files alone: what the image has for site-packages."""
    folder.mkdir()
    for name in installed():
        try:
            files = metadata.distribution(name).files or ()
        except metadata.PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in files if file.parts[0] not in {"..", "__pycache__"}}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(metadata.distribution(name).locate_file(top))))
    return folder


@pytest.fixture(scope="module")
def srv(config: Config, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder /srv as it is in the image, with the settings where a target mounts them."""
    folder = tmp_path_factory.mktemp("image")
    asked = {
        "access": {},
        "port": free_port(),
        "store": "sqlite:///gateway.db",
        "guards": {"toxicity": {"action": "flag"}},
    }
    serve = Serve.model_validate({**config.serve.model_dump(), **asked})
    guarded = config.model_copy(update={"serve": serve})
    bundle = bundles.build(guarded, adapter, LINEAGE, folder / "bundles")
    job = Job(guarded, bundle, bundles.verify(bundle), lambda url: None)
    stage(job, folder)
    srv = (folder / "image").rename(folder / "srv")
    for name in ("order", "state"):
        (srv / name).mkdir()
    for name, text in inside(job, ("gateway",), behind_proxy=True).files.items():
        (srv / "order" / name).write_text(text.replace("/srv/", f"{srv}/"))
    packages(folder / "packages")
    for path in (srv / "bundle", *(srv / "bundle").rglob("*")):
        path.chmod(0o555)
    return srv


def environment(srv: Path) -> dict[str, str]:
    """Return the image's environment, as its file says it."""
    (said,) = re.findall(r"^ENV (.*?[^\\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    told = dict(pair.split("=", 1) for pair in said.replace("\\\n", " ").split())
    told |= {key: value.replace("/srv/", f"{srv}/") for key, value in told.items()}
    path = os.pathsep.join((str(srv.parent / "packages"), str(PROJECT / "src")))
    return {**told, "PATH": os.environ["PATH"], "PYTHONPATH": path}


def entrypoint(srv: Path, words: list[str]) -> list[str]:
    assert words[0] == "python"
    return [sys.executable, "-S", *(word.replace("/srv/", f"{srv}/") for word in words[1:])]


def test_the_entrypoint_serves_the_laid_out_image(srv: Path) -> None:
    (said,) = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)
    port = json.loads((srv / "order/order.json").read_text())["serve"]["port"]
    where = {"cwd": srv / "state", "env": environment(srv)}
    log = (srv.parent / "log").open("w+")
    process = subprocess.Popen(entrypoint(srv, json.loads(said)), stdout=log, stderr=log, **where)
    try:

        def ready() -> bool:
            assert process.poll() is None, Path(log.name).read_text()
            try:
                return urlopen(f"http://127.0.0.1:{port}/readyz", timeout=20).status == 200
            except OSError:
                return False

        wait_for(ready, 90)
        make = ["python", "-m", "forgeline.serving.gateway.access", "--order", "/srv/order/order.json"]
        words = [*entrypoint(srv, make), "--name", "desk", "--role", "caller"]
        key = subprocess.run(words, capture_output=True, text=True, check=True, **where).stdout.strip()
        asked = {"model": "reply-writer", "messages": HELLO, "max_tokens": 3}

        def answered() -> bool:
            request = Request(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(asked).encode())
            request.add_header("authorization", f"Bearer {key}")
            request.add_header("content-type", "application/json")
            try:
                return bool(json.load(urlopen(request, timeout=30))["choices"])  # noqa: S310
            except HTTPError as refused:
                assert refused.code == 401, refused.read()  # it reads keys anew every two seconds
                return False

        wait_for(answered, 20)
        made = [json.loads(line)["action"] for line in (srv / "state/ledger.jsonl").read_text().splitlines()]
        assert made == ["key created"]
    finally:
        process.terminate()
        assert process.wait(30) == 0, Path(log.name).read_text()
