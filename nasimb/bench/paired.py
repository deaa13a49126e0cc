"""Differences of paired measurements, and whether they can be told from chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05
LEAST_PAIRS = 3
"""Of fewer, two that happen to be alike decide: a t test of one degree of freedom rests on their difference alone."""
NO_SPREAD = 1e-9
"""Differences that deviate by less than this share of what was measured are equal, but for rounding."""


@dataclass(frozen=True, slots=True)
class Paired:
    """Of n paired differences.

    Attributes:
        mean, deviation: of the differences; the deviation (n - 1) is NaN for one pair.
        low, high: 95 % interval of the mean by Student's t; NaN where chance cannot be judged.
        p_value: of the two-sided paired t test; 1 where nothing differs. NaN where chance cannot be judged: there are
            fewer than three pairs, or all differences are the same but for rounding.
        pairs: n.
    """

    mean: float
    deviation: float
    low: float
    high: float
    p_value: float
    pairs: int

    def sentence(self, one: str, other: str, p_value: float | None = None) -> str:
        """What may be said, such as "nbn is significantly better than bn (p = 0.012, 5 pairs)".

        Args:
            p_value: corrected for other comparisons by `holm`; None: there are no others.
        """
        if math.isnan(self.p_value):
            why = "of equal differences" if self.pairs >= LEAST_PAIRS else f"where {LEAST_PAIRS} are needed"
            return f"Chance cannot be judged by {self.pairs} pair{'s' * (self.pairs > 1)} {why}."
        corrected = "" if p_value is None else " corrected by Holm"
        p_value = self.p_value if p_value is None else p_value
        found = f"(p = {p_value:.2g}{corrected}, {self.pairs} pairs)"
        if p_value >= LEVEL:
            return f"No significant difference between {one} and {other} {found}."
        return f"{one} is significantly {'better' if self.mean > 0 else 'worse'} than {other} {found}."


def paired(one: Sequence[float], other: Sequence[float]) -> Paired:
    """`one` - `other`, pair by pair; larger is better."""
    ours, theirs = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    differences = ours - theirs
    pairs, mean = len(differences), float(differences.mean())
    deviation = float(differences.std(ddof=1)) if pairs > 1 else math.nan
    if pairs < LEAST_PAIRS:
        return Paired(mean, deviation, math.nan, math.nan, math.nan, pairs)
    if not differences.any():
        return Paired(0.0, 0.0, 0.0, 0.0, 1.0, pairs)
    if deviation <= NO_SPREAD * float(np.abs([ours, theirs]).max()):  # t would be a ratio of rounding errors
        return Paired(mean, deviation, math.nan, math.nan, math.nan, pairs)
    error = deviation / math.sqrt(pairs)
    p_value = 2 * float(stats.t.sf(abs(mean) / error, pairs - 1))
    reach = float(stats.t.ppf(1 - LEVEL / 2, pairs - 1)) * error
    return Paired(mean, deviation, mean - reach, mean + reach, p_value, pairs)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for their number (Holm 1979): in all of them together, 5 % of the time one is below 0.05 by chance.

    Whatever depends on what. A NaN was no comparison, and stays one.
    """
    corrected = [math.nan] * len(p_values)
    order = sorted((place for place, p in enumerate(p_values) if not math.isnan(p)), key=lambda place: p_values[place])
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
