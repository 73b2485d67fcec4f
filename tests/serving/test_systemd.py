"""The systemd target: what it renders, what refuses it, and what it says without systemd; it runs in tests/load."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from forgeline.config import Config
from forgeline.config.schema.serve.targets.systemd import Systemd as Settings
from forgeline.errors import ServingError
from forgeline.serving.bundle import verify
from forgeline.serving.order import Order
from forgeline.serving.targets import Job, systemd
from forgeline.serving.targets.systemd import Systemd

analysed = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
SYSTEM = {"scope": "system", "user": "daemon", "environment": "/etc/forgeline.env", "memory": "8G"}


def job(config: Config, bundle: Path, root: Path | None = None, **serve: Any) -> Job:
    values = {**config.model_dump(), "root": root or config.root, "serve": config.serve.model_dump() | serve}
    return Job(Config.model_validate(values), bundle, verify(bundle), smoke=lambda url: None)


def test_the_units_are_rendered_from_serve_yaml(config: Config, bundle: Path) -> None:
    made = job(config, bundle, host="::1", drain_timeout=20.0, targets={"systemd": SYSTEM})
    files = Systemd().plan(made).files
    name = f"forgeline-{config.project.name}"
    assert f"ListenStream=[::1]:{config.serve.port}\n" in files[f"{name}.socket"]
    service = files[f"{name}.service"].splitlines()
    told = {"User=daemon", "EnvironmentFile=/etc/forgeline.env", "MemoryMax=8G", f"ReadWritePaths={config.root}"}
    assert told | {"Type=notify", "NoNewPrivileges=yes", "ProtectSystem=strict", "TimeoutStopSec=50"} <= {*service}
    assert Order.model_validate_json(files["order.json"]).serve.drain_timeout == 20
    own = Systemd().plan(job(config, bundle)).files[f"{name}.service"]
    assert "WantedBy=default.target" in own
    assert "User=" not in own


@analysed
@pytest.mark.parametrize("name", ["plain", "with spaces", 'a "quoted" $HOME 100%', "back\\slash"])
def test_any_folder_may_be_the_project_s(config: Config, bundle: Path, tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    plan = Systemd().plan(job(config, bundle, root, targets={"systemd": SYSTEM}))
    assert any(check.against == "systemd-analyze verify" for check in plan.checks)


@analysed
def test_a_broken_unit_is_refused_with_the_path_of_the_fault() -> None:
    faults = systemd._refused({"x.service": "[Service]\nExecStart=relative\nRestart=perhaps\n"}, Settings())
    assert any(fault.startswith("x.service:3:") and "perhaps" in fault for fault in faults)
    assert any(fault.startswith("x.service:") and "relative" in fault for fault in faults)


def test_what_no_unit_can_say_is_refused(config: Config, bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "two\nlines"
    with pytest.raises(ServingError) as refused:
        Systemd().plan(job(config, bundle, root, host="localhost"))
    name = f"forgeline-{config.project.name}"
    assert f"{name}.socket, [Socket] ListenStream: serve.host is localhost" in str(refused.value)
    assert f"{name}.service, [Service] WorkingDirectory" in str(refused.value)


def test_without_systemd_one_sentence_is_said_and_nothing_is_left(
    config: Config, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, target = job(config, bundle, tmp_path), Systemd()
    plan = target.plan(made)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    with pytest.raises(ServingError) as refused:
        target.deploy(made, plan)
    assert len(str(refused.value).splitlines()) == 1
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServingError, match="this machine has no systemd; use the target local"):
        target.deploy(made, plan)
    assert not (tmp_path / "config").exists()
    assert (target.status(tmp_path), target.destroy(tmp_path), [*target.logs(tmp_path, 5)]) == (None, None, [])


# `systemctl` as far as it says how it is; what a manager really does is in `python -m tests.load managed`.
def test_a_changed_address_is_refused_while_systemd_holds_the_socket(
    config: Config, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(config, bundle, tmp_path)
    kept = systemd.Kept(tmp_path, systemd.NAME)
    order = Order(bundle=bundle, serve=made.config.serve)
    kept.save(systemd.Served.ordered(kept.path(), order, made.manifest))

    def answered(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, "active\n", "")

    monkeypatch.setattr(systemd.subprocess, "run", answered)
    other = job(config, bundle, tmp_path, port=config.serve.port - 1)
    with pytest.raises(ServingError, match="is another, and systemd holds the socket"):
        Systemd().deploy(other, Systemd().plan(other))


def test_a_system_s_service_runs_as_a_user_that_is_named() -> None:
    with pytest.raises(ValueError, match="scope system needs a user"):
        Settings(scope="system")
    with pytest.raises(ValueError, match="scope user has none"):
        Settings(user="daemon")
