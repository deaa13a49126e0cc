"""How well one order of candidates predicts another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import kendalltau

NO_ORDER = "There is no order to compare: all values of one side are equal, one is not finite, or there is only one."
"""Why there is no tau, for a reader."""


def kendall_tau(scores: Sequence[float], truths: Sequence[float]) -> float | None:
    """Kendall's tau-b, which allows for ties; None where one side is constant, is not finite, or has fewer than two."""
    if len(scores) < 2 or not np.isfinite([*scores, *truths]).all():
        return None
    tau = float(kendalltau(scores, truths).statistic)
    return tau if np.isfinite(tau) else None


def regret(scores: Sequence[float], truths: Sequence[float], top: int = 3) -> float:
    """The best truth of all, less the best truth among the `top` with the largest scores.

    Equal scores keep their order, as a search would keep the first found.
    """
    order = sorted(range(len(scores)), key=lambda position: -scores[position])
    return max(truths) - max(truths[position] for position in order[:top])
