"""serve.yaml, targets: where a deployment runs when it is not this machine alone."""

from __future__ import annotations

from forgeline.config.schema.section import Section
from forgeline.config.schema.serve.targets.edge import Edge
from forgeline.config.schema.serve.targets.systemd import Systemd


class Targets(Section):
    """What each target needs to know beside the rest of serve.yaml."""

    edge: Edge = Edge()
    systemd: Systemd = Systemd()
