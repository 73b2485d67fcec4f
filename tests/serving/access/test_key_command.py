"""`forgeline key`, and the key of whoever owns the machine."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from house import gateway

from forgeline import cli
from forgeline.config import load
from forgeline.config.schema import Config
from forgeline.ledger import Ledger
from forgeline.serving.gateway.access import issuing
from forgeline.serving.gateway.access.keys import FORM, hashed
from forgeline.serving.gateway.access.local import local_key, saved_key

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that has the shipped configuration."""
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config(project: Path) -> Config:
    return load(project)


def ran(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Run `forgeline key`; return its exit code and what it says."""
    monkeypatch.setattr(sys, "argv", ["forgeline", "key", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


def test_a_key_through_its_life(
    project: Path, config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgeline(*arguments: str) -> Any:
        status, out, _ = ran(capsys, monkeypatch, *arguments, "--json")
        assert status == 0
        return json.loads(out)

    made = forgeline("create", "the shop's desk", "--tenant", "shop", "--role", "caller", "--role", "reviewer")
    assert FORM.fullmatch(made["key"]) and made["roles"] == ["caller", "reviewer"]
    assert round((made["expires_at"] - made["created_at"]) / 86400) == config.serve.access.key_days
    rotated = forgeline("rotate", made["id"], "--grace-hours", "1", "--days", "7")
    assert rotated["id"] == made["id"] and rotated["key"] != made["key"]
    listed = forgeline("list")
    assert [(key["id"], key["name"], key["state"]) for key in listed] == [(made["id"], "the shop's desk", "good")]
    assert "key" not in listed[0] and "digest" not in listed[0]
    assert forgeline("revoke", made["id"], "--reason", "lost")["state"] == "revoked"
    status, _, told = ran(capsys, monkeypatch, "revoke", made["id"], "--reason", "lost")
    assert (status, told) == (1, f"error: Key {made['id']} (the shop's desk) was revoked; create another.\n")
    status, _, told = ran(capsys, monkeypatch, "create", "x", "--tenant", "shop", "--role", "root")
    assert (status, told.startswith("error: There is no role root")) == (1, True)

    ledger = Ledger(config.root / config.project.stores.ledger)
    assert [entry.action for entry in ledger.verify()] == ["key created", "key rotated", "key revoked"]
    for text in (made["key"], rotated["key"]):
        secret = text.split("_", 2)[2]
        assert secret not in ledger.path.read_text() and hashed(secret) not in ledger.path.read_text()
        assert secret.encode() not in (project / ".forgeline/gateway.db").read_bytes()


def test_a_new_key_is_alone_on_standard_output(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, told = ran(capsys, monkeypatch, "create", "a script", "--tenant", "shop", "--model", "m")
    assert status == 0 and FORM.fullmatch(out.strip()) and "not shown again" in told
    status, out, _ = ran(capsys, monkeypatch, "list")
    assert status == 0 and "a script\tshop\tcaller\tm\tgood" in out and "never" in out


def test_the_owners_key_is_made_once_and_only_they_can_read_it(
    project: Path, config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert saved_key(project) == "none"
    text = local_key(config)
    path = project / ".forgeline/keys/local"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert saved_key(project) == local_key(config) == text
    assert ran(capsys, monkeypatch, "local")[1].strip() == text
    with issuing.opened(config.serve.store) as store:
        (key,) = issuing.keys(store)
        assert (key.tenant, key.roles) == ("local", {"admin"})
        issuing.revoke(store, Ledger(project / "ledger.jsonl"), key.id, "a test")
    assert local_key(config) != text  # another, for the old one opens nothing
    path.write_text("nonsense")
    path.chmod(0o644)
    assert FORM.fullmatch(local_key(config)) and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_owners_key_opens_their_gateway(tmp_path: Path, config: Config) -> None:
    serve = config.serve.model_copy(update={"store": f"sqlite:///{tmp_path}/gateway.db"})
    text = local_key(config.model_copy(update={"serve": serve}))
    with gateway(tmp_path) as house:
        assert house.ask("GET", "/metrics", text).status == 200
        assert house.ask("GET", "/metrics").status == 401
