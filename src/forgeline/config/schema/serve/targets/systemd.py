"""serve.yaml, targets.systemd: a service of this machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from forgeline.config.schema.section import Section


class Systemd(Section):
    """A unit of one user's manager, or of the system's, which runs it as `user`.

    `environment` is a file of lines NAME=VALUE, read by systemd: where `${env:NAME}` finds its secrets. `memory` is
    the most that the service may take, as systemd writes it.
    """

    scope: Literal["user", "system"] = "user"
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,30}$")] | None = None
    environment: Annotated[str, Field(pattern=r"^/")] | None = None
    memory: Annotated[str, Field(pattern=r"^\d+[KMGT]?$")] | None = None

    @model_validator(mode="after")
    def _user_is_the_system_s(self) -> Systemd:
        if (self.scope == "system") != (self.user is not None):
            raise ValueError("scope system needs a user that the service runs as, and scope user has none")
        return self
