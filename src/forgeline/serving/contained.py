"""The command of a container: `python -m forgeline.serving.contained`; what its place passes as arguments is not read.

A managed service has no files of ours. It has the image, and these variables: `FORGELINE_SETTINGS`, the part of
serve.yaml that differs from the defaults, as JSON; `FORGELINE_DIGEST`, the bundle that is meant; `FORGELINE_BUNDLE`, its
folder in the image. SageMaker adds the argument `serve`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from forgeline.errors import ForgelineError, ServingError

BUNDLE = "bundle"  # below the working folder, unless FORGELINE_BUNDLE says where
SCRATCH = Path(tempfile.gettempdir()) / "forgeline"  # the only place that every one of them lets a container write to


def prepared(environment: dict[str, str]) -> list[str]:
    """Write the settings down, and return the gateway's arguments.

    Raises:
        ServingError: if the settings are not there or not valid, or the image holds another bundle than was meant.
    """
    from pydantic import ValidationError

    from forgeline.config.schema import Serve

    try:
        serve = Serve.model_validate_json(environment["FORGELINE_SETTINGS"])
    except KeyError:
        raise ServingError("FORGELINE_SETTINGS is not set: `forgeline deploy --dry-run` prints what it must be.") from None
    except ValidationError as fault:
        raise ServingError(f"FORGELINE_SETTINGS is not serve.yaml as JSON: {fault.errors()[0]['msg']}.") from None
    bundle = Path(environment.get("FORGELINE_BUNDLE", BUNDLE))
    try:
        held = json.loads((bundle / "manifest.json").read_bytes())["digest"]
    except (OSError, ValueError, KeyError):
        raise ServingError(f"{bundle} is not a bundle: build the image with one, or set FORGELINE_BUNDLE.") from None
    if held != environment.get("FORGELINE_DIGEST", held):
        raise ServingError(
            f"The image holds the bundle {held[:16]}, and {environment['FORGELINE_DIGEST'][:16]} was to be deployed: "
            "build and push its image, and set serve.targets.image."
        )
    SCRATCH.mkdir(exist_ok=True)
    settings = SCRATCH / "serve.json"
    settings.write_text(serve.model_dump_json(), encoding="utf-8")
    return ["--bundle", str(bundle), "--settings", str(settings)]


def main() -> None:
    """Become the gateway, which then is who gets the signals."""
    gateway = [sys.executable, "-m", "forgeline.serving.gateway", *prepared(dict(os.environ))]
    os.execv(sys.executable, gateway)


if __name__ == "__main__":
    try:
        main()
    except ForgelineError as fault:
        sys.exit(f"error: {fault}")
