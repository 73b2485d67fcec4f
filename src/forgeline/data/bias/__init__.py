"""Measures of bias in texts, each with its interval and a sentence."""
