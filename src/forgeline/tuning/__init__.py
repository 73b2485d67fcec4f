"""Adapt a base model to the training split."""

from forgeline.tuning.lora import TunedAdapter, tune

__all__ = ["TunedAdapter", "tune"]
