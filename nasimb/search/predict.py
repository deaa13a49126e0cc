"""How long the next candidates will take, from those so far."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from nasimb.search.trial import FAILED, FINISHED, SCREENED, Trial

QUANTILE = 0.9
MARGIN = 1.1
LATEST = 100
"""So many of the last trials are looked at: machines and batches change."""


def latest(trials: Sequence[Trial]) -> list[tuple[int, float]]:
    """MACs and seconds of the last trials that cost something, in order."""
    charged = ((t.macs, t.seconds) for t in reversed(trials) if t.state in (FINISHED, SCREENED, FAILED))
    return list(islice(charged, LATEST))[::-1]


def predicted_seconds(macs: Sequence[int], seen: Sequence[tuple[int, float]]) -> float:
    """The 90 % quantile of the seconds that candidates of `macs` will take together; 0 with nothing to go by.

    A line seconds = a + b macs with a, b >= 0 through what was seen, scaled so that nine in ten of the runs of as many
    trials among the last hundred stayed below it (shorter runs where half of what was seen is less), and by a tenth
    more: the promise is about the budget, not about the mean. Whatever a trial costs besides its MACs (promoted or
    not, prefixes shared) is in the past runs as it will be in the next.

    Args:
        seen: (MACs, seconds) of scored trials, in order.
    """
    if not seen or not macs:
        return 0.0
    macs_n, seconds_n = np.array(seen[-LATEST:], dtype=float).T
    start, slope = _line(macs_n, seconds_n)
    length = max(1, min(len(macs), len(macs_n) // 2))
    taken_r = _sums(seconds_n, length)
    fitted_r = np.maximum(_sums(start + slope * macs_n, length), 1e-9)
    excess = float(np.quantile(taken_r / fitted_r, QUANTILE))
    return MARGIN * max(excess, 1.0) * (start * len(macs) + slope * sum(macs))


def fitting(macs: Sequence[int], seen: Sequence[tuple[int, float]], seconds: float) -> int:
    """How many candidates, from the first on, to score next, so that they do not take more than `seconds`.

    Several together only where they are predicted to take half of it: the nearer the end, the smaller the step, and
    what remains uncertain in the end is one candidate.
    """
    several = (n for n in range(len(macs), 1, -1) if predicted_seconds(macs[:n], seen) <= seconds / 2)
    return next(several, int(bool(macs) and predicted_seconds(macs[:1], seen) <= seconds))


def _line(macs_n: NDArray[np.float64], seconds_n: NDArray[np.float64]) -> tuple[float, float]:
    """Least squares with start and slope not negative."""
    mean = float(seconds_n.mean())
    if len(np.unique(macs_n)) == 1:
        return mean, 0.0
    slope, start = (float(value) for value in np.polyfit(macs_n, seconds_n, 1))
    if slope < 0:
        return mean, 0.0
    if start < 0:
        return 0.0, float((macs_n @ seconds_n) / (macs_n @ macs_n))
    return start, slope


def _sums(values_n: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Sum of every run of `length` values."""
    return np.convolve(values_n, np.ones(length), mode="valid")
