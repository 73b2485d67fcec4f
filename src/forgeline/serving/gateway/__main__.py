"""Serve a bundle: `python -m forgeline.serving.gateway --bundle PATH`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Threads that spin while they wait starve the others on a busy machine; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from forgeline.errors import ForgelineError
from forgeline.serving.bundle import verify
from forgeline.serving.engines.transformers import TransformersEngine
from forgeline.serving.gateway.app import create_app
from forgeline.serving.gateway.server import Server, listen


def main() -> None:
    """Read the command line and serve until told to stop; a relative base model is found below the working folder."""
    parser = argparse.ArgumentParser(prog="python -m forgeline.serving.gateway", description="Serve a bundle.")
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle's folder")
    parser.add_argument("--host", help="where to listen; the bundle's serve settings if not given")
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    manifest = verify(arguments.bundle)
    listener = listen(arguments.host or manifest.serve.host, arguments.port or manifest.serve.port)
    app = create_app(TransformersEngine(arguments.bundle, Path.cwd(), manifest), manifest, manifest.serve)
    Server(app, manifest.serve.drain_timeout).serve_on(listener)


if __name__ == "__main__":
    try:
        main()
    except ForgelineError as fault:
        sys.exit(f"error: {fault}")
