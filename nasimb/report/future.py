"""What more budget would buy: the best score so far along the search, and where it may go.

The extrapolation asks how large the best of n more candidates would be, if they were like the latest half of those that
were scored. Scores above the 80 % quantile of these are taken for a generalised Pareto tail (Pickands 1975), fitted by
its moments to bootstrap samples of them. So few scores hardly tell its shape: it is drawn evenly between the fitted one
and 0, the heaviest that a score of at most 1 can have. The band holds 80 % of the simulated bests: of the chance of the
draws and of the fit. (With 100 made scores from bell-shaped distributions, the best of 300 more was above the band in 0
to 13 % of cases and below it in 2 to 7 %; where scores end at an edge, the band is too high.) It is of held-out scores,
by which the best was picked, and so promises nothing about the test split.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import genpareto

from nasimb.search.trial import FINISHED, Trial

Floats = NDArray[np.float64]

LEAST_SCORES, LEAST_ABOVE = 40, 4
TAIL, BAND = 0.8, (0.1, 0.5, 0.9)
FURTHEST = 3
"""Times the candidates so far, which the extrapolation goes on for."""
SIMULATED, POINTS = 4000, 30


@dataclass(frozen=True, eq=False)
class Future:
    """T candidates scored on all images, in order, and M points beyond.

    Attributes:
        seconds_T: charged to trials up to and with each.
        score_T, best_T: held out; the best so far.
        seconds_M: where more candidates would end that take as long as those so far. Empty without an extrapolation.
        low_M, middle_M, high_M: 10, 50 and 90 % of the best then.
        why_not: a sentence, where there is no extrapolation.
    """

    seconds_T: Floats
    score_T: Floats
    best_T: Floats
    seconds_M: Floats
    low_M: Floats
    middle_M: Floats
    high_M: Floats
    why_not: str


def future(trials: Sequence[Trial], eligible: Collection[int] | None = None) -> Future:
    """The curve of a run's trials in their order; repeats and failures cost time, and have no score of their own.

    Args:
        eligible: numbers of the trials that the run could choose, where it has limits on cost; None: all. The others
            cost time too.
    """
    spent = np.cumsum([trial.seconds for trial in trials])
    scored = [
        (seconds, trial.score)
        for seconds, trial in zip(spent, trials, strict=True)
        if trial.state == FINISHED and trial.score is not None and (eligible is None or trial.number in eligible)
    ]
    seconds_T = np.array([seconds for seconds, _ in scored], dtype=float)
    score_T = np.array([score for _, score in scored], dtype=float)
    more, band, why_not = extrapolate(score_T)
    each = float(spent[-1]) / len(scored) if len(scored) else 0.0
    ends = (float(spent[-1]) if len(spent) else 0.0) + each * more
    best_T = np.maximum.accumulate(score_T) if len(scored) else score_T
    return Future(seconds_T, score_T, best_T, ends, *band, why_not)


def extrapolate(score_T: Floats, *, seed: int = 0) -> tuple[Floats, tuple[Floats, Floats, Floats], str]:
    """Numbers of further candidates [M], the band [M] of the best then (low, middle, high), and why there is none."""
    empty = np.empty(0)
    latest = score_T[len(score_T) // 2 :]
    if len(score_T) < LEAST_SCORES:
        return empty, (empty, empty, empty), f"An extrapolation needs {LEAST_SCORES} scores; there are {len(score_T)}."
    best, threshold = float(score_T.max()), float(np.quantile(latest, TAIL))
    above = latest[latest > threshold] - threshold
    if best >= 1.0:
        return empty, (empty, empty, empty), "The best held-out score is 100 %: more search cannot raise it."
    if len(above) < LEAST_ABOVE or np.ptp(above) == 0:
        return empty, (empty, empty, empty), "The best scores are tied, so that their tail says nothing."
    rng = np.random.default_rng(seed)
    samples_SE = above[rng.integers(len(above), size=(SIMULATED, len(above)))]
    shape_S, scale_S = _tails(samples_SE, rng.random(SIMULATED))
    more_M = np.unique(np.geomspace(1, FURTHEST * len(score_T), POINTS).astype(int)).astype(float)
    level_S1 = rng.random((SIMULATED, 1))
    # The chance that one candidate is above what n of them stay below with this chance, among those in the tail.
    survival_SM = -np.expm1(np.log(level_S1) / more_M) * len(latest) / len(above)
    highest_SM = threshold + genpareto.isf(np.minimum(survival_SM, 1.0), shape_S[:, None], scale=scale_S[:, None])
    low_M, middle_M, high_M = np.quantile(np.clip(highest_SM, best, 1.0), BAND, axis=0)
    return more_M, (low_M, middle_M, high_M), ""


def _tails(above_SE: Floats, level_S: Floats) -> tuple[Floats, Floats]:
    """Shape and scale [S] of the tail of every sample, by its mean and variance (Hosking and Wallis 1987).

    Args:
        level_S: where between 0 and the fitted shape each is taken.
    """
    mean_S, variance_S = above_SE.mean(1), above_SE.var(1, ddof=1)
    fitted_S = np.clip((1 - mean_S**2 / np.maximum(variance_S, 1e-12)) / 2, -1.0, 0.0)
    shape_S = level_S * fitted_S
    return shape_S, mean_S * (1 - shape_S)


def sentence(found: Future) -> str:
    """What the curve says, for those who do not read it."""
    if found.why_not:
        return found.why_not
    best, factor = float(found.best_T[-1]), 1 + FURTHEST
    return (
        f"With {factor} times the search, the best held-out score is expected at {100 * found.middle_M[-1]:.1f} "
        f"(80 % band {100 * found.low_M[-1]:.1f} to {100 * found.high_M[-1]:.1f}), from {100 * best:.1f} now."
    )
