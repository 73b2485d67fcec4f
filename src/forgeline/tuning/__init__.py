"""Adapt a base model to the training split."""

from forgeline.tuning.result import TunedModel
from forgeline.tuning.tune import tune

__all__ = ["TunedModel", "tune"]
