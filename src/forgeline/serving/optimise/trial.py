"""A variant on trial in a process of its own: `python -m forgeline.serving.optimise.trial KIND --bundle B --variant V`.

Admitted or not, it is served over loopback to whoever measures it, and to nobody else.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from forgeline.errors import ForgelineError
from forgeline.serving.bundle import NOBODY, verify
from forgeline.serving.engines.embedded import Embedded
from forgeline.serving.engines.openvino import Continuous
from forgeline.serving.engines.server import Server
from forgeline.serving.optimise.onnx import Turns
from forgeline.serving.sockets import listen
from forgeline.serving.variant import verify as verified

KINDS: dict[str, type[Continuous] | type[Turns]] = {"openvino": Continuous, "onnx": Turns}


def main() -> None:
    """Read the command line and serve a variant until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m forgeline.serving.optimise.trial", description="Try a variant.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--variant", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    manifest = verify(given.bundle, NOBODY)  # whoever starts this has just asked for the signature
    batcher = KINDS[given.kind](given.variant, verified(given.variant, manifest), given.bundle)
    engine = Embedded(given.kind, batcher)
    Server(engine, manifest, drain_timeout=1).serve_on(listen("127.0.0.1", given.port))


if __name__ == "__main__":
    try:
        main()
    except ForgelineError as fault:
        sys.exit(f"error: {fault}")
