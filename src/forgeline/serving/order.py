"""What a deployment on a machine serves: one file, read by whoever starts it and by the gateway itself."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from forgeline.config.schema import Serve
from forgeline.errors import ServingError
from forgeline.records import write_json


class Order(BaseModel):
    """The bundle and the settings; `ledger` is where the gateway writes down what it decides, if it may."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bundle: Path
    serve: Serve
    ledger: Path | None = None

    @classmethod
    def read(cls, path: Path) -> Order:
        """Return the order in a file.

        Raises:
            ServingError: if it is not there, or is no order.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise ServingError(f"{path} is not there: `forgeline deploy` writes it.") from None
        except ValidationError as fault:
            raise ServingError(f"{path} is not an order: {fault.errors()[0]['msg']}; deploy again.") from None

    def save(self, path: Path) -> None:
        """Write the order whole or not at all: whoever reads meanwhile gets the one before."""
        write_json(path, self.model_dump(mode="json"))
