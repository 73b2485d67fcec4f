"""What goes in and out: personal data masked and restored, requests and replies judged by guards."""

from forgeline.serving.gateway.guards.desk import Guards
from forgeline.serving.gateway.guards.guard import Finding, Guard, Passage
from forgeline.serving.gateway.guards.masks import Masks

__all__ = ["Finding", "Guard", "Guards", "Masks", "Passage"]
