"""How long the next candidate will take, from those so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

QUANTILE = 0.9
MARGIN = 1.1


def predicted_seconds(macs: int, seen: Sequence[tuple[int, float]]) -> float:
    """The 90 % quantile of the seconds that a candidate of `macs` will take; 0 with nothing to go by.

    A line seconds = a + b macs with a, b >= 0 through what was seen, scaled so that nine in ten of the last hundred
    trials stayed below it, and by a tenth more: the promise is about the budget, not about the mean.

    Args:
        seen: (MACs, seconds) of finished trials.
    """
    if not seen:
        return 0.0
    macs_n, seconds_n = np.array(seen[-100:], dtype=float).T
    slope, start = 0.0, float(seconds_n.mean())
    if len(np.unique(macs_n)) > 1:
        slope, start = (float(value) for value in np.polyfit(macs_n, seconds_n, 1))
        if start < 0 or slope < 0:
            start = 0.0 if start < 0 else float(seconds_n.mean())
            slope = max(0.0, float((macs_n @ seconds_n) / (macs_n @ macs_n))) if start == 0.0 else 0.0
    fitted_n = np.maximum(start + slope * macs_n, 1e-9)
    excess = float(np.quantile(seconds_n / fitted_n, QUANTILE))
    return MARGIN * max(excess, 1.0) * (start + slope * macs)
