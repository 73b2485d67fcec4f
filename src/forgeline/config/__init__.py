"""Strict configuration: typed sections over `configs/*.yaml`, profiles and overrides."""

from forgeline.config.load import find_root, load
from forgeline.config.schema import Config

__all__ = ["Config", "find_root", "load"]
