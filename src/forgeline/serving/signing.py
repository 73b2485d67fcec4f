"""Who vouches for a folder: an Ed25519 signature (RFC 8032) beside the document that names every file's digest.

The envelope is DSSE 1.0 (https://github.com/secure-systems-lab/dsse/blob/master/protocol.md), which other tools read.
"""

from __future__ import annotations

import base64
import getpass
import os
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forgeline.config.schema.serve import Signing
from forgeline.errors import ServingError
from forgeline.lineage import file_digest
from forgeline.records import write_json
from forgeline.sources.environment import expand

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE = "signature.json"
PAYLOAD: Final = "application/vnd.forgeline.statement+json"
OTHERS = 0o077  # the rights that nobody but a private key's owner may have


class Statement(BaseModel):
    """What is signed: a document by its name and sha256, by whom and when (ISO 8601, UTC)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    document: str
    sha256: str
    signer: str
    at: str


class Signature(BaseModel):
    """One key's signature of an envelope's payload, in base64."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    keyid: str
    sig: str


class Envelope(BaseModel):
    """A statement in base64 and its signatures; the names of its fields are those of DSSE."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    payload_type: Literal["application/vnd.forgeline.statement+json"] = Field(alias="payloadType")
    payload: str
    signatures: list[Signature]


class Vouched(BaseModel):
    """A statement that holds, and the id of the trusted key that signed it."""

    model_config = ConfigDict(frozen=True)
    key: str
    statement: Statement


def make_key(path: Path, password: str | None = None) -> tuple[Path, str]:
    """Write a private key for its owner's eyes alone, and its public key to `<path>.pub`; return that and the key's id.

    Raises:
        ServingError: if one of the files is there already, or cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key, public = Ed25519PrivateKey.generate(), path.with_name(f"{path.name}.pub")
    cipher = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    contents = {
        path: (key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher), 0o600),
        public: (key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, (content, mode) in contents.items():
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
    except OSError as fault:
        raise ServingError(f"{fault.filename} cannot be written ({fault.strerror}): name another file.") from fault
    return public, key_id(key.public_key())


def key_id(key: Ed25519PublicKey) -> str:
    """Return the first 16 hexadecimal digits of the sha256 of a public key's 32 bytes."""
    return sha256(key.public_bytes_raw()).hexdigest()[:16]


def sign(document: Path, signing: Signing) -> Vouched | None:
    """Sign a document by `signing.key`, beside it; return what was signed, or None if that key had done so already.

    Raises:
        ServingError: if there is no key, it cannot be used, or the signature cannot be written.
    """
    key = _private(signing)
    identity, digest = key_id(key.public_key()), file_digest(document)
    with suppress(ServingError):  # none is there, or another's
        former = _signed(document.with_name(SIGNATURE), {identity: key.public_key()}).statement
        if (former.document, former.sha256) == (document.name, digest):
            return None
    at = datetime.now(UTC).isoformat(timespec="seconds")
    statement = Statement(document=document.name, sha256=digest, signer=getpass.getuser(), at=at)
    payload = statement.model_dump_json().encode()
    signature = Signature(keyid=identity, sig=base64.b64encode(key.sign(_encoded(payload))).decode())
    envelope = Envelope(payloadType=PAYLOAD, payload=base64.b64encode(payload).decode(), signatures=[signature])
    try:
        write_json(document.with_name(SIGNATURE), envelope.model_dump(by_alias=True))
    except OSError as fault:
        raise ServingError(f"{document.parent} cannot be signed: {fault.strerror}.") from fault
    return Vouched(key=identity, statement=statement)


def check(document: Path, content: bytes, signing: Signing) -> Vouched | None:
    """Return who vouches for a document with this content; None if nobody does and nobody must.

    Raises:
        ServingError: if it is not signed though it must be, or signed by nobody who is trusted, or altered since.
    """
    path, remedy = document.with_name(SIGNATURE), "do not serve it: deploy again where it was built."
    if not os.path.lexists(path):
        if signing.required:
            raise ServingError(
                f"{document.parent} is not signed, and serve.signing.required asks that it is: {remedy} "
                "Or, if you know that it is what was approved, run `forgeline sign`."
            )
        return None
    if not signing.trusted:
        return None
    trusted = {key_id(key): key for key in map(_public, signing.trusted)}
    vouched = _signed(path, trusted)
    if (vouched.statement.document, vouched.statement.sha256) != (document.name, sha256(content).hexdigest()):
        raise ServingError(f"{document} was altered after key {vouched.key} signed it: {remedy}")
    return vouched


def _signed(path: Path, keys: dict[str, Ed25519PublicKey]) -> Vouched:
    """Return the statement of an envelope that one of the keys signed."""
    from cryptography.exceptions import InvalidSignature

    try:
        envelope = Envelope.model_validate_json(path.read_bytes())
        payload = base64.b64decode(envelope.payload, validate=True)
        signatures = {each.keyid: base64.b64decode(each.sig, validate=True) for each in envelope.signatures}
    except (OSError, ValueError):
        raise ServingError(f"{path} is not a signature: delete it, and sign or deploy again.") from None
    known = next((identity for identity in signatures if identity in keys), None)
    if known is None:
        raise ServingError(
            f"{path.parent} is signed by key {', '.join(signatures) or 'nobody'}, which serve.signing.trusted does not "
            f"name (it names {', '.join(keys)}): do not serve it, or trust that key."
        )
    try:
        keys[known].verify(signatures[known], _encoded(payload))
        return Vouched(key=known, statement=Statement.model_validate_json(payload))
    except (InvalidSignature, ValidationError):
        raise ServingError(f"{path} is not what key {known} signed: do not serve {path.parent}.") from None


def _encoded(payload: bytes) -> bytes:
    """Return what DSSE signs of a payload: its type and itself, each after its length."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def _private(signing: Signing) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if signing.key is None:
        raise ServingError("serve.signing.key is not set: make one with `forgeline signing-key`, and name it there.")
    given = expand(signing.key)
    password = expand(signing.password).encode() if signing.password else None
    try:
        pem = given.encode() if given.startswith("-----BEGIN") else _own(Path(given))
        key = load_pem_private_key(pem, password)
    except OSError as fault:
        raise ServingError(f"serve.signing.key: {signing.key} cannot be read: {fault.strerror}.") from fault
    except (TypeError, ValueError):  # the library's message would tell no more; the key itself is never shown
        raise ServingError("serve.signing.key is no private key in PEM, or serve.signing.password is wrong.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ServingError("serve.signing.key is not an Ed25519 key: make one with `forgeline signing-key`.")
    return key


def _own(path: Path) -> bytes:
    """Return the content of a file that only its owner can read."""
    mode = path.stat().st_mode & 0o777
    if mode & OTHERS:
        raise ServingError(f"serve.signing.key: others can read or change {path} (mode {mode:o}): chmod 600 {path}")
    return path.read_bytes()


def _public(name: str) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(Path(name).read_bytes())
    except (OSError, ValueError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ServingError(f"serve.signing.trusted: {name} is missing, or no Ed25519 public key in PEM.")
    return key
