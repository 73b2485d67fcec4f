"""Batches: a file of requests in, a file of answers out."""

from forgeline.serving.gateway.batch.routes import router
from forgeline.serving.gateway.batch.run import Batches

__all__ = ["Batches", "router"]
