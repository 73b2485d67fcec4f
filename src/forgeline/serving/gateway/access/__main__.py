"""Make a key where a gateway runs: `python -m forgeline.serving.gateway.access --order PATH --name N --role R`.

`forgeline key` does it from the project. In a container there is no project, and its database may be out of reach.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from forgeline.errors import ForgelineError
from forgeline.ledger import Ledger
from forgeline.serving.gateway.access import issuing
from forgeline.serving.order import Order

LEDGER = Path("ledger.jsonl")  # below the working folder, if the order names none


def main() -> None:
    """Print the key's text, which nobody can read again."""
    parser = argparse.ArgumentParser(prog="python -m forgeline.serving.gateway.access", description="Make an API key.")
    parser.add_argument("--order", type=Path, required=True, help="what the gateway was started from")
    parser.add_argument("--name", required=True, help="whose it is")
    parser.add_argument("--tenant", default="local", help="whose data its requests are")
    parser.add_argument("--role", choices=issuing.ROLES, required=True)
    parser.add_argument("--days", type=float, default=1.0, help="how long it is good")
    asked = parser.parse_args()
    order = Order.read(asked.order)
    with issuing.opened(order.serve.store) as store:
        ledger = Ledger(order.ledger or LEDGER)
        print(issuing.create(store, ledger, asked.name, asked.tenant, [asked.role], [], asked.days)[1])


if __name__ == "__main__":
    try:
        main()
    except ForgelineError as fault:
        sys.exit(f"error: {fault}")
