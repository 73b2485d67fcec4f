"""Who vouches for a bundle."""

from __future__ import annotations

from pydantic import model_validator

from forgeline.config.schema.section import Section


class Signing(Section):
    """Which key signs a bundle when it is built, and whose signature is asked of it before it is opened.

    `key` is a private key's PEM file, or `${env:NAME}` for a variable that holds the PEM; `password` decrypts it, by
    reference too. `trusted` are public keys' PEM files: several, while one takes the place of another. A signature that
    is there must be by one of them; with `required` it must be there.
    """

    key: str | None = None
    password: str | None = None
    trusted: tuple[str, ...] = ()
    required: bool = False

    @model_validator(mode="after")
    def _trusts_somebody(self) -> Signing:
        if self.required and not self.trusted:
            raise ValueError("required without trusted: name the public keys whose signatures count")
        return self
