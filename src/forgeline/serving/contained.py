"""The command of a managed container: `python -m forgeline.serving.contained`; arguments are not read.

A managed service mounts no files of ours. It has the image, which is as docs/targets/compose.md says, and variables:
`FORGELINE_SETTINGS`, what of serve.yaml differs from the defaults, as JSON; `FORGELINE_DIGEST`, the bundle that is
meant; and `FORGELINE_FILE_…`, the files that the settings name. SageMaker adds the argument `serve`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from forgeline.errors import ForgelineError, ServingError

BUNDLE = Path("/srv/bundle")
SCRATCH = Path("/tmp/forgeline")  # noqa: S108  the only place that every vendor lets a container write to
FILE = "FORGELINE_FILE_"


def prepared(environment: Mapping[str, str], bundle: Path, scratch: Path) -> Path:
    """Write the order and its files down; return the order's path.

    Raises:
        ServingError: if the settings are not there or not valid, or the image holds another bundle than was meant.
    """
    from pydantic import ValidationError

    from forgeline.config.schema import Serve
    from forgeline.serving.order import Order

    try:
        serve = Serve.model_validate_json(environment["FORGELINE_SETTINGS"])
    except KeyError:
        raise ServingError("FORGELINE_SETTINGS is not set: see `forgeline deploy --dry-run`.") from None
    except ValidationError as fault:
        raise ServingError(f"FORGELINE_SETTINGS is not serve.yaml as JSON: {fault.errors()[0]['msg']}.") from None
    try:
        held = json.loads((bundle / "manifest.json").read_bytes())["digest"]
    except (OSError, ValueError, KeyError):
        raise ServingError(
            f"The image has no bundle in {bundle}: docs/targets/compose.md says how to build it."
        ) from None
    if held != environment["FORGELINE_DIGEST"]:
        raise ServingError(
            f"The image holds the bundle {held[:16]}, and {environment['FORGELINE_DIGEST'][:16]} was to be deployed: "
            "build and push its image, and set serve.targets.pushed."
        )
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in environment.items():
        if name.startswith(FILE):
            (scratch / name).write_text(text, encoding="ascii")
    order = scratch / "order.json"
    Order(bundle=bundle, serve=serve).save(order)
    return order


def main() -> None:
    """Become the gateway, which then is who gets the signals."""
    order = prepared(os.environ, BUNDLE, SCRATCH)
    os.chdir(SCRATCH)
    gateway = [sys.executable, "-m", "forgeline.serving.gateway", "--order", str(order)]
    os.execve(sys.executable, gateway, {**os.environ, "HOME": str(SCRATCH)})  # noqa: S606  no shell is meant


if __name__ == "__main__":
    try:
        main()
    except ForgelineError as fault:
        sys.exit(f"error: {fault}")
