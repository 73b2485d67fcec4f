"""ZenML pipelines; each reads as a list of steps."""
