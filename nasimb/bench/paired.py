"""Differences of paired measurements, and whether they can be told from chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Paired:
    """Of n paired differences.

    Attributes:
        mean, deviation: of the differences; the deviation (n - 1) is NaN for one pair.
        low, high: 95 % interval of the mean by Student's t; NaN for one pair.
        p_value: of the two-sided paired t test; NaN for one pair, 1 where all differences are zero.
        pairs: n.
    """

    mean: float
    deviation: float
    low: float
    high: float
    p_value: float
    pairs: int

    def sentence(self, one: str, other: str) -> str:
        """What may be said, such as "nbn is better than bn (p = 0.012, 5 pairs)"."""
        if math.isnan(self.p_value):
            return "One pair says nothing about chance."
        found = f"(p = {self.p_value:.2g}, {self.pairs} pairs)"
        if self.p_value >= LEVEL:
            return f"No significant difference between {one} and {other} {found}."
        return f"{one} is significantly {'better' if self.mean > 0 else 'worse'} than {other} {found}."


def paired(one: Sequence[float], other: Sequence[float]) -> Paired:
    """`one` - `other`, pair by pair; larger is better."""
    differences = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    pairs, mean = len(differences), float(differences.mean())
    if pairs < 2:
        return Paired(mean, math.nan, math.nan, math.nan, math.nan, pairs)
    deviation = float(differences.std(ddof=1))
    if deviation == 0.0:  # t has no value; nothing varies, so that any difference but zero is certain
        return Paired(mean, 0.0, mean, mean, 1.0 if mean == 0.0 else 0.0, pairs)
    error = deviation / math.sqrt(pairs)
    p_value = 2 * float(stats.t.sf(abs(mean) / error, pairs - 1))
    reach = float(stats.t.ppf(1 - LEVEL / 2, pairs - 1)) * error
    return Paired(mean, deviation, mean - reach, mean + reach, p_value, pairs)
