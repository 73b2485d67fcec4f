"""What a tuning run yields."""

from __future__ import annotations

from pydantic import BaseModel


class TunedModel(BaseModel):
    """The folder of an adapter or a whole model, and what its training took: nats a token, seconds."""

    path: str
    examples: int
    steps: int
    tokens: int
    seconds: float
    train_loss: float
    validation_loss: float
    stopped_early: bool

    @property
    def tokens_per_second(self) -> float:
        """Real tokens (no padding) trained a second."""
        return self.tokens / self.seconds
