"""What an attacker can do to a bundle, and that nothing of it is loaded then."""

from __future__ import annotations

import ast
import base64
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scene import PROJECT, free_port

from forgeline import cli
from forgeline.config.schema import Serve
from forgeline.config.schema.serve import Signing
from forgeline.errors import ServingError
from forgeline.ledger import Ledger
from forgeline.lineage import file_digest
from forgeline.serving import bundle as bundles
from forgeline.serving import signing

ADAPTER = "tuned/adapter_model.safetensors"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the keys of the release, of the release after, and of somebody else."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "next", "theirs"):
        signing.make_key(folder / name)
    return folder


@pytest.fixture(scope="module")
def asked(keys: Path) -> Signing:
    return Signing(key=str(keys / "ours"), trusted=(str(keys / "ours.pub"),), required=True)


@pytest.fixture
def signed(copied: Path, asked: Signing) -> Path:
    assert signing.sign(copied / bundles.MANIFEST, asked)
    return copied


def by(keys: Path, name: str) -> Signing:
    return Signing(key=str(keys / name))


def redigested(folder: Path, **files: str) -> None:
    """Write the manifest anew, as whoever altered the files would; `files` are named beside those that are there."""
    found = {path.relative_to(folder).as_posix(): file_digest(path) for path in folder.rglob("*") if path.is_file()}
    found = {name: digest for name, digest in found.items() if name not in {"manifest.json", "signature.json"}}
    manifest = bundles.Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    manifest = manifest.model_copy(update={"files": found | files})
    manifest = manifest.model_copy(update={"digest": manifest.expected_digest()})
    (folder / "manifest.json").write_text(manifest.model_dump_json())


class Code:
    """What a pickle can do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def alter_weights(folder: Path, keys: Path) -> None:
    with (folder / ADAPTER).open("ab") as file:
        file.write(b"\0")


def alter_manifest(folder: Path, keys: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["lineage"]["version"] = "99"
    (folder / "manifest.json").write_text(json.dumps(manifest))


def alter_and_redigest(folder: Path, keys: Path) -> None:
    alter_weights(folder, keys)
    redigested(folder)


def strip(folder: Path, keys: Path) -> None:
    alter_and_redigest(folder, keys)
    (folder / "signature.json").unlink()


def sign_as_another(folder: Path, keys: Path) -> None:
    alter_and_redigest(folder, keys)
    signing.sign(folder / "manifest.json", by(keys, "theirs"))


def sign_under_our_name(folder: Path, keys: Path) -> None:
    ours = json.loads((folder / "signature.json").read_text())["signatures"][0]["keyid"]
    sign_as_another(folder, keys)
    envelope = json.loads((folder / "signature.json").read_text())
    envelope["signatures"][0]["keyid"] = ours
    (folder / "signature.json").write_text(json.dumps(envelope))


def replay(folder: Path, keys: Path) -> None:
    """Say of the altered manifest what was signed of the true one."""
    alter_and_redigest(folder, keys)
    envelope = json.loads((folder / "signature.json").read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["sha256"] = file_digest(folder / "manifest.json")
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    (folder / "signature.json").write_text(json.dumps(envelope))


def scribble(folder: Path, keys: Path) -> None:
    (folder / "signature.json").write_text("{}")


def link_the_signature(folder: Path, keys: Path) -> None:
    (folder / "signature.json").unlink()
    (folder / "signature.json").symlink_to(folder / "nowhere")


# Even those who hold the key are not believed in these.


def pickle_as_weights(folder: Path, keys: Path) -> None:
    (folder / ADAPTER).write_bytes(pickle.dumps(Code()))
    redigested(folder)
    signing.sign(folder / "manifest.json", by(keys, "ours"))


def text_pickle_as_weights(folder: Path, keys: Path) -> None:
    (folder / ADAPTER).write_bytes(pickle.dumps(Code(), protocol=0))
    redigested(folder)
    signing.sign(folder / "manifest.json", by(keys, "ours"))


def pickle_by_another_name(folder: Path, keys: Path) -> None:
    (folder / "tuned/tokenizer.model").write_bytes(pickle.dumps(Code()))
    redigested(folder)
    signing.sign(folder / "manifest.json", by(keys, "ours"))


def archive_of_torch(folder: Path, keys: Path) -> None:
    (folder / "tuned/weights").write_bytes(b"PK\x03\x04" + b"\0" * 26)
    redigested(folder)
    signing.sign(folder / "manifest.json", by(keys, "ours"))


def pickle_by_name(folder: Path, keys: Path) -> None:
    (folder / "tuned/extra.pkl").write_bytes(b"")
    redigested(folder)
    signing.sign(folder / "manifest.json", by(keys, "ours"))


def link_a_file_out(folder: Path, keys: Path) -> None:
    shutil.move(folder / ADAPTER, folder.parent / "elsewhere")
    (folder / ADAPTER).symlink_to(folder.parent / "elsewhere")


def link_a_folder_out(folder: Path, keys: Path) -> None:
    (folder.parent / "approach").mkdir()
    (folder / "approach").symlink_to(folder.parent / "approach")


def name_what_is_not_there(folder: Path, keys: Path) -> None:
    redigested(folder, **{"tuned/more.safetensors": "0" * 64})
    signing.sign(folder / "manifest.json", by(keys, "ours"))


def name_a_file_outside(folder: Path, keys: Path) -> None:
    (folder.parent / "outside").write_text("")
    redigested(folder, **{"tuned/../../outside": file_digest(folder.parent / "outside")})
    signing.sign(folder / "manifest.json", by(keys, "ours"))


def name_an_absolute_file(folder: Path, keys: Path) -> None:
    redigested(folder, **{"/etc/hostname": "0" * 64})
    signing.sign(folder / "manifest.json", by(keys, "ours"))


Attack = Callable[[Path, Path], None]
UNREAD: dict[Attack, str] = {  # refused before a byte beside manifest and signature is read
    alter_manifest: r"manifest\.json was altered after key \w{16} signed it",
    alter_and_redigest: r"manifest\.json was altered after key \w{16} signed it",
    strip: "is not signed, and serve.signing.required asks that it is",
    sign_as_another: r"is signed by key \w{16}, which serve.signing.trusted does not name",
    sign_under_our_name: r"signature\.json is not what key \w{16} signed",
    replay: r"signature\.json is not what key \w{16} signed",
    scribble: "is not a signature",
    link_the_signature: "is not a signature",
    link_a_file_out: r"adapter_model\.safetensors is a link or a device",
    link_a_folder_out: "approach is a link or a device",
    pickle_by_name: r"extra\.pkl may hold pickled code",
    name_what_is_not_there: r"more\.safetensors is missing",
    name_a_file_outside: "which lies outside of the bundle",
    name_an_absolute_file: "names /etc/hostname, which lies outside of the bundle",
}
HASHED: dict[Attack, str] = {
    alter_weights: r"adapter_model\.safetensors was altered",
    pickle_as_weights: r"adapter_model\.safetensors is no safetensors file by its content",
    text_pickle_as_weights: r"adapter_model\.safetensors is no safetensors file by its content",
    pickle_by_another_name: r"tokenizer\.model is a pickle or an archive by its content",
    archive_of_torch: "weights is a pickle or an archive by its content",
}


@pytest.mark.parametrize("attack", [*UNREAD, *HASHED], ids=lambda attack: attack.__name__)
def test_it_is_refused_in_one_sentence(attack: Attack, signed: Path, keys: Path, asked: Signing) -> None:
    assert bundles.verify(signed, asked).lineage.version == "3"
    attack(signed, keys)
    with pytest.raises(ServingError, match=(UNREAD | HASHED)[attack]) as refused:
        bundles.verify(signed, asked)
    assert "\n" not in str(refused.value)


WATCHED = """
import json, sys
from pathlib import Path
from forgeline.config.schema import Serve
from forgeline.errors import ForgelineError
from forgeline.serving.engines import server
from forgeline.serving.gateway import __main__ as gateway
from forgeline.serving.order import Order
bundles, settings, opened, told = sys.argv[1].split(":"), sys.argv[2], [], []
sys.addaudithook(lambda event, facts: opened.append(str(facts[0])) if event == "open" else None)
for bundle in bundles:
    order = Order(bundle=bundle, serve=Serve.model_validate_json(open(settings).read()))
    order.save(Path(bundle + ".json"))
    asked = ["--order", bundle + ".json"], ["--bundle", bundle, "--settings", settings, "--port", "1"]
    for main, options in zip((gateway.main, server.main), asked, strict=True):
        sys.argv = ["serve", *options]
        opened.clear()
        try:
            main()
        except ForgelineError as refused:
            told.append([bundle, [path for path in opened if path.startswith(bundle + "/")]])
loaded = {"torch", "transformers", "safetensors", "peft", "tokenizers", "openvino"} & {*sys.modules}
print(json.dumps({"told": told, "loaded": sorted(loaded)}))
"""


def test_nothing_is_loaded_or_even_read(copied: Path, keys: Path, asked: Signing, tmp_path: Path) -> None:
    """Both servers, as they are started: what they open of each bundle, and what they import."""
    signing.sign(copied / bundles.MANIFEST, asked)
    attacked = {}
    for attack in UNREAD | HASHED:
        folder = shutil.copytree(copied, tmp_path / attack.__name__ / "bundle")
        attack(folder, keys)
        attacked[str(folder)] = attack
    settings = tmp_path / "serve.json"
    settings.write_text(Serve(port=free_port(), signing=asked).model_dump_json())
    command = [sys.executable, "-c", WATCHED, ":".join(attacked), str(settings)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["loaded"] == []
    assert len(found["told"]) == 2 * len(attacked)
    for folder, opened in found["told"]:
        if attacked[folder] in UNREAD:
            assert {*opened} <= {f"{folder}/manifest.json", f"{folder}/signature.json"}


def test_keys_are_rotated_without_a_gap(signed: Path, keys: Path, asked: Signing) -> None:
    both = asked.model_copy(update={"trusted": (str(keys / "ours.pub"), str(keys / "next.pub"))})
    after = asked.model_copy(update={"trusted": (str(keys / "next.pub"),)})
    bundles.verify(signed, both)
    assert signing.sign(signed / bundles.MANIFEST, asked) is None  # it is there already
    assert signing.sign(signed / bundles.MANIFEST, by(keys, "next"))
    assert bundles.verify(signed, both) == bundles.verify(signed, after)
    with pytest.raises(ServingError, match="does not name"):
        bundles.verify(signed, asked)


def test_what_need_not_be_signed_must_still_not_be_signed_by_others(copied: Path, keys: Path, asked: Signing) -> None:
    lenient = asked.model_copy(update={"required": False})
    bundles.verify(copied, lenient)
    signing.sign(copied / bundles.MANIFEST, by(keys, "theirs"))
    with pytest.raises(ServingError, match="does not name"):
        bundles.verify(copied, lenient)
    bundles.verify(copied)  # where nobody is trusted, nobody is asked


def test_adapters_beside_a_bundle_are_signed_too(
    signed: Path, bundle: Path, adapter: Path, root: Path, asked: Signing
) -> None:
    from forgeline.serving.engines.transformers import Rows

    for path, fault in ((adapter, "is not a bundle, so nobody signed it"), (bundle, "is not signed")):
        with pytest.raises(ServingError, match=fault):
            Rows(signed, root, adapters={"other": str(path)}, signing=asked).load()


def test_a_private_key_is_its_owners_alone(
    copied: Path, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (keys / "ours").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ServingError, match="ours cannot be written"):
        signing.make_key(keys / "ours")
    open_to_all, document = shutil.copy(keys / "ours", tmp_path / "open"), copied / bundles.MANIFEST
    open_to_all.chmod(0o644)
    with pytest.raises(ServingError, match=r"others can read or change .*chmod 600"):
        signing.sign(document, Signing(key=str(open_to_all)))
    monkeypatch.setenv("PASSWORD", "a-word-of-passing")
    signing.make_key(tmp_path / "locked", "a-word-of-passing")
    with pytest.raises(ServingError, match="password is wrong"):
        signing.sign(document, Signing(key=str(tmp_path / "locked")))
    monkeypatch.setenv("KEY", (tmp_path / "locked").read_text())
    assert signing.sign(document, Signing(key="${env:KEY}", password="${env:PASSWORD}"))  # noqa: S106
    monkeypatch.setenv("KEY", "bm90IGEga2V5")
    with pytest.raises(ServingError) as refused:
        signing.sign(document, Signing(key="${env:KEY}"))
    assert "bm90" not in str(refused.value)


def test_required_needs_somebody_to_trust() -> None:
    with pytest.raises(ValueError, match="name the public keys whose signatures count"):
        Signing(required=True)


def test_the_commands(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forgeline(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["forgeline", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    monkeypatch.chdir(tmp_path)
    assert forgeline("signing-key", "keys/release.pem")[0] == 0
    policy = ["--set", "serve.signing.trusted=[keys/release.pem.pub]", "--set", "serve.signing.required=true"]
    status, _, told = forgeline("verify", "bundle", *policy)
    assert (status, told.count("\n")) == (1, 1) and "is not signed" in told
    key = ["--set", "serve.signing.key=keys/release.pem"]
    assert forgeline("sign", "bundle", "--reason", "it is what was approved", *key)[0] == 0
    status, said, _ = forgeline("verify", "bundle", *policy, "--json")
    assert status == 0
    [entry] = Ledger(tmp_path / "ledger.jsonl").verify()
    facts = json.loads(said)["signature"]
    assert (entry.action, entry.facts["key"], entry.facts["statement"]) == ("signed", facts["key"], facts["statement"])
    assert "is intact" in forgeline("verify", "bundle", *policy)[1]
    assert forgeline("signing-key", "keys/other.pem", "--password", "plain")[0] == 2


def test_no_place_opens_a_bundle_without_asking_who_signed_it() -> None:
    """Whoever calls `verify` or `load` says by which signatures, or passes on what was verified so."""
    rooms = ("src", "steps", "pipelines")
    for path in sorted(path for room in rooms for path in (PROJECT / room).rglob("*.py")):
        for call, needed in bundle_calls(ast.parse(path.read_text(encoding="utf-8"))):
            given = len(call.args) + len(call.keywords)
            assert given >= needed, f"{path.relative_to(PROJECT)}:{call.lineno} asks for no signature"


def bundle_calls(tree: ast.Module) -> list[tuple[ast.Call, int]]:
    """Return the calls of the functions of `serving.bundle` in a module, and how many arguments say who signed."""
    needed, imports = {"verify": 2, "load": 3}, [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    own = [name for node in imports if node.module == "forgeline.serving.bundle" for name in node.names]
    functions = {name.asname or name.name: needed[name.name] for name in own if name.name in needed}
    rooms = [name for node in imports if node.module == "forgeline.serving" for name in node.names]
    modules = {name.asname or name.name for name in rooms if name.name == "bundle"}
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        match call.func:
            case ast.Name(id=name) if name in functions:
                found.append((call, functions[name]))
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in modules and name in needed:
                found.append((call, needed[name]))
    return found
