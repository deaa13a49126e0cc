"""Screening: a cheap first score on part of the images decides who is worth the whole (successive halving).

The part holds every image of the rare classes and at most so many of each frequent one. Rare classes are what balanced
scores hang on, frequent ones are what the time goes into. Heads weigh the images so that the objective stays that of
the whole target, and a promoted candidate's features of the part are used again.

Successive halving as in Jamieson and Talwalkar 2016 (arXiv 1502.07943) with two rungs: when the search is over, the
best 1 / eta of all that were screened are promoted, together, because what is good in the end resembles each other and
shares its first blocks. To promote as they come (ASHA, Li et al. 2020, arXiv 1810.05934) took nearly twice the time:
a search that gets better promotes more than its share, and most of that is soon outdone.
Shapes: N images, M images of the part, K classes, T candidates.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil

import torch
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


def ranked(trials: Sequence[Trial], cost: str | None) -> list[Trial]:
    """All trials that were screened, best first; those already promoted stand among them.

    Ordered by how many others dominate them (Fonseca and Fleming 1993), which without a cost is their rank, then by
    score; of equals the earlier one stays ahead.

    Args:
        cost: "macs" or "params" of a Pareto search; None: the score alone.
    """
    screened = [trial for trial in trials if trial.state in (FINISHED, SCREENED) and trial.screen_score is not None]
    points = [(_score(trial), 0 if cost is None else getattr(trial, cost)) for trial in screened]
    dominated_T = _dominated_by(points)
    order = sorted(range(len(screened)), key=lambda position: (dominated_T[position], -points[position][0], position))
    return [screened[position] for position in order]


def chosen(order: Sequence[Trial], eta: int) -> list[Trial]:
    """Who is to see all images, out of those screened, best first: the best ceil(T / eta), and the best random one.

    Plain random sampling, with which the search is compared, is to be as well served.
    """
    number = ceil(len(order) / eta)
    best, rest = list(order[:number]), order[number:]
    if not any(trial.kind == "random" for trial in best):
        best += [trial for trial in rest if trial.kind == "random"][:1]
    return best


def awaiting(trials: Sequence[Trial]) -> list[Trial]:
    """Those of the chosen that are neither scored on all images yet nor failed there."""
    return [trial for trial in trials if trial.state == SCREENED and trial.reason is None]


def full_seconds(macs: float, trials: Sequence[Trial]) -> float:
    """What candidates of so many MACs together take on all images, by those that were scored on them so far.

    As dear as those were by their MACs; that promoted ones share their first blocks makes it less. 0 with nothing to
    go by.
    """
    seen = [trial for trial in trials if trial.state == FINISHED and trial.screen_score is not None]
    return macs * sum(trial.seconds for trial in seen) / max(sum(trial.macs for trial in seen), 1)


def promotion_macs(order: Sequence[Trial], eta: int, more: int) -> float:
    """MACs of all that will be promoted after `more` further candidates, should these be like the best so far.

    Args:
        order: all that were screened, best first.
    """
    best = chosen(order, eta)
    waiting = awaiting(best)
    added = ceil((len(order) + more) / eta) - ceil(len(order) / eta)
    typical = waiting or best
    return sum(trial.macs for trial in waiting) + added * sum(trial.macs for trial in typical) / max(len(typical), 1)


def _score(trial: Trial) -> float:
    assert trial.screen_score is not None
    return trial.screen_score


def _dominated_by(points: Sequence[tuple[float, float]]) -> list[int]:
    """By how many others each (score, cost) is dominated: no worse in both, better in one; O(T log T)."""
    same, by_cost = Counter(points), sorted(points, key=lambda point: point[1])
    counts: dict[tuple[float, float], int] = {}
    scores: list[float] = []
    for _, group in groupby(by_cost, key=lambda point: point[1]):
        members = list(group)
        for score, _cost in members:
            insort(scores, score)
        for point in members:
            counts[point] = len(scores) - bisect_left(scores, point[0]) - same[point]
    return [counts[point] for point in points]
