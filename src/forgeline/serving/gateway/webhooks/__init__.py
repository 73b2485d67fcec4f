"""Events for other systems."""

from forgeline.serving.gateway.webhooks.deliveries import Event, Webhooks, signature
from forgeline.serving.gateway.webhooks.routes import router

__all__ = ["Event", "Webhooks", "router", "signature"]
