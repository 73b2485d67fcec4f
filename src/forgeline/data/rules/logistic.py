"""A linear classifier whose features can only speak for the positive class."""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

PENALTY = 1e-4
ROUNDS = 800

Numbers = NDArray[numpy.int64]
Floats = NDArray[numpy.float64]


def fit(rows: Numbers, columns: Numbers, positive: NDArray[numpy.bool_]) -> tuple[Floats, float]:
    """Return the weights, none negative, and the constant of a logistic regression with an L1 penalty.

    The ones of the design matrix stand at (rows, columns); both classes count for a half. The method is
    FISTA (Beck and Teboulle, 2009).
    """
    n, width = len(positive), int(columns.max()) + 1
    labels = numpy.where(positive, 1.0, 0.0)
    share = numpy.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum())

    def forward(values: Floats) -> Floats:
        odds: Floats = numpy.bincount(rows, values[columns], n) + values[-1]
        return odds

    def backward(residuals: Floats) -> Floats:
        return numpy.append(numpy.bincount(columns, residuals[rows], width), residuals.sum())

    direction = numpy.ones(width + 1)
    for _ in range(30):  # power iteration: the largest curvature sets the step
        direction = backward(share * forward(direction))
        curvature = numpy.linalg.norm(direction)
        direction /= curvature
    step = 3.8 / curvature
    penalty, floor = numpy.append(numpy.full(width, PENALTY), 0), numpy.append(numpy.zeros(width), -numpy.inf)
    best = ahead = numpy.zeros(width + 1)
    momentum = 1.0
    for _ in range(ROUNDS):
        slope = backward(share * (1 / (1 + numpy.exp(-forward(ahead))) - labels))
        new = numpy.maximum(ahead - step * (slope + penalty), floor)
        following = (1 + numpy.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / following * (new - best)
        best, momentum = new, following
    weights: Floats = best[:-1].round(4)
    return weights, round(float(best[-1]), 4)  # below what the order of additions may change
