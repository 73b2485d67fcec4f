"""Forgeline: a generative text model from raw data to an accountable production endpoint."""

__version__ = "0.1.0"
