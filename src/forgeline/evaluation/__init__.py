"""Score models on the frozen test prompts, and say how sure the scores are."""

from forgeline.evaluation.compare import difference
from forgeline.evaluation.report import Report
from forgeline.evaluation.score import evaluate
from forgeline.evaluation.slices import slice_differences, slices

__all__ = ["Report", "difference", "evaluate", "slice_differences", "slices"]
