"""Serve what an order says: `python -m forgeline.serving.gateway --order PATH`.

It listens where the order says, or on the socket that it was passed, as systemd's socket activation does.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

# Read when torch is imported. Threads that spin for long while they wait starve the others on a busy machine; those
# that do not spin at all are late for the next product, which is 0.1 ms away.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from forgeline.errors import ForgelineError
from forgeline.serving.bundle import verify
from forgeline.serving.engines.make import made_all
from forgeline.serving.gateway import web
from forgeline.serving.gateway.app import create_app
from forgeline.serving.gateway.kept import Kept
from forgeline.serving.gateway.server import Server
from forgeline.serving.order import Order
from forgeline.serving.sockets import inherited, listen


def main() -> None:
    """Read the command line and serve until told to stop; a relative base model is found below the working folder."""
    parser = argparse.ArgumentParser(prog="python -m forgeline.serving.gateway", description="Serve a bundle.")
    parser.add_argument("--order", type=Path, required=True, help="what to serve and how, as `forgeline deploy` writes")
    parser.add_argument("--keeper", type=int, help="the descriptor of the channel to the keeper that started it")
    arguments = parser.parse_args()
    order = Order.read(arguments.order)
    bundle, serve = order.bundle, order.serve
    listeners = inherited()
    manifest = verify(bundle, serve.signing)
    if not listeners:
        listeners = [listen(serve.host, serve.port)]
    page = web.stored_page(bundle, manifest.lineage.model)
    app = create_app(made_all(serve, bundle, manifest), manifest, serve, Path.cwd(), page, arguments.order)
    if arguments.keeper is None:
        Server(app, serve).serve_on(*listeners)
    else:
        keeper = socket.socket(fileno=arguments.keeper)
        keeper.set_inheritable(False)
        shared, *trial = listeners
        Kept(app, serve, keeper, shared).serve_on(*trial)


if __name__ == "__main__":
    try:
        main()
    except ForgelineError as fault:
        sys.exit(f"error: {fault}")
