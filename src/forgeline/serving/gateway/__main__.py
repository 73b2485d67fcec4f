"""Serve what an order says: `python -m forgeline.serving.gateway --order PATH`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Threads that spin while they wait starve the others on a busy machine; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from forgeline.errors import ForgelineError
from forgeline.serving.bundle import verify
from forgeline.serving.engines.make import made_all
from forgeline.serving.gateway import web
from forgeline.serving.gateway.app import create_app
from forgeline.serving.gateway.server import Server, listen
from forgeline.serving.order import Order


def main() -> None:
    """Read the command line and serve until told to stop; a relative base model is found below the working folder."""
    parser = argparse.ArgumentParser(prog="python -m forgeline.serving.gateway", description="Serve a bundle.")
    parser.add_argument("--order", type=Path, required=True, help="what to serve and how, as `forgeline deploy` writes")
    arguments = parser.parse_args()
    order = Order.read(arguments.order)
    bundle, serve = order.bundle, order.serve
    manifest = verify(bundle, serve.signing)
    listener = listen(serve.host, serve.port)
    page = web.stored_page(bundle, manifest.lineage.model)
    app = create_app(made_all(serve, bundle, manifest), manifest, serve, Path.cwd(), page, arguments.order)
    Server(app, serve).serve_on(listener)


if __name__ == "__main__":
    try:
        main()
    except ForgelineError as fault:
        sys.exit(f"error: {fault}")
