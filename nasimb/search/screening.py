"""Screening: a cheap first score on part of the images decides who is worth the whole (successive halving).

The part holds every image of the rare classes and at most so many of each frequent one. Rare classes are what balanced
scores hang on, frequent ones are what the time goes into. Heads weigh the images so that the objective stays that of
the whole target, and a promoted candidate's features of the part are used again.

Successive halving as in Jamieson and Talwalkar 2016 (arXiv 1502.07943) with two rungs; a candidate is promoted when it
is among the best 1 / eta of all that were screened so far, as in ASHA (Li et al. 2020, arXiv 1810.05934).
Shapes: N images, M images of the part, K classes, T candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasimb.search.trial import FINISHED, SCREENED, Trial
from nasimb.supernet.sampling import generator_for

SHARE = 0.1
"""Of the images, that the part should have at most."""
LEAST = 20
"""Images of a class that the part keeps whatever its share: recall in steps of 5 % is the coarsest worth having."""
WORTHWHILE = 1 / 3
"""A part larger than this saves too little to be worth a second score."""


@dataclass(frozen=True, eq=False)
class Screen:
    """The part of the images that screens, and who goes on.

    Attributes:
        fitted_M: positions of the part in the images that heads are fitted on, ascending.
        validation_M: the same of the hold-out; None where there is none.
        eta: one candidate in so many is promoted.
    """

    fitted_M: Tensor
    validation_M: Tensor | None
    eta: int

    def receipt(self, trials: Sequence[Trial], images: int) -> dict[str, float | int]:
        """How many were screened and promoted, on how many of the images, and about what that saved.

        A screened candidate would have cost what promoted ones did for as many MACs: the smallest and the largest,
        which are promoted in any case, left aside.
        """
        screened = [trial for trial in trials if trial.state == SCREENED]
        promoted = [trial for trial in trials if trial.state == FINISHED and trial.screen_score is not None]
        chosen = [trial for trial in promoted if trial.kind not in ("smallest", "largest")] or promoted
        full_seconds = sum(trial.seconds for trial in chosen) / max(sum(trial.macs for trial in chosen), 1)
        saved_seconds = full_seconds * sum(trial.macs for trial in screened) - sum(trial.seconds for trial in screened)
        return {
            "images": len(self.fitted_M), "of_images": images, "eta": self.eta,
            "screened": len(screened) + len(promoted), "promoted": len(promoted),
            "saved_seconds": round(max(saved_seconds, 0.0), 3),
        }  # fmt: skip


def class_capped(labels_N: Tensor, *, seed: int, cap: int | None = None) -> Tensor | None:
    """Positions of all images of rare classes and of at most `cap` random ones of each other, ascending.

    Args:
        cap: None: as many as make a tenth of all images, but 20 at least.

    Returns:
        None where that would be more than a third of the images: screening would not pay.
    """
    counts_K = torch.bincount(labels_N)
    cap = cap or max(LEAST, _cap_for(counts_K, SHARE * len(labels_N)))
    if int(counts_K.clamp(max=cap).sum()) > WORTHWHILE * len(labels_N):
        return None
    order_N = torch.randperm(len(labels_N), generator=generator_for(seed, 5))
    # Stable, so that within a class the order stays random.
    order_N = order_N[labels_N[order_N].argsort(stable=True)]
    starts_K = counts_K.cumsum(0) - counts_K
    rank_N = torch.arange(len(labels_N)) - starts_K[labels_N[order_N]]
    return order_N[rank_N < cap].sort().values


def _cap_for(counts_K: Tensor, most: float) -> int:
    """The largest cap under which the capped counts add up to `most` at most; 0 if none."""
    low, high = 0, int(counts_K.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(counts_K.clamp(max=middle).sum()) <= most else (low, middle - 1)
    return low


def promoted(score: float, cost: float, scores_T: NDArray[np.float64], costs_T: NDArray[np.float64], eta: int) -> bool:
    """Whether a candidate goes on to all images, given the T that were screened before it.

    It does when it is among the best 1 / eta of those that cost no more (itself included; of equals the earlier one is
    ahead). Where no cost counts, all are equal: the best 1 / eta of all. In a Pareto search whoever is not dominated
    goes on. Only those before it count, so that where batches begin and end makes no difference.
    """
    rivals_T = costs_T <= cost
    ahead = int((rivals_T & (scores_T >= score)).sum())
    return ahead < ceil((int(rivals_T.sum()) + 1) / eta)
