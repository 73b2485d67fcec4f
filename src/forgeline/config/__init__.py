"""Strict configuration: typed sections over `configs/*.yaml`, profiles and overrides."""

from forgeline.config.load import load
from forgeline.config.schema import Config

__all__ = ["Config", "load"]
