"""The best so far, and an extrapolation that is tried on scores whose future is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nasimb.report import Run
from nasimb.report.future import LEAST_SCORES, extrapolate, future, sentence


def coverage(kind: str) -> tuple[float, float]:
    """Shares of trials in which the best of 300 more scores was above the band, and below it."""
    rng = np.random.default_rng(3)
    draw = {"beta": lambda: rng.beta(20, 5, 400), "normal": lambda: np.clip(rng.normal(0.6, 0.05, 400), 0, 1)}[kind]
    above, below = [], []
    for _ in range(100):
        scores = draw()
        _, (low_M, _, high_M), why_not = extrapolate(scores[:100])
        assert why_not == ""
        above.append(scores.max() > high_M[-1])
        below.append(scores.max() < low_M[-1])
    return float(np.mean(above)), float(np.mean(below))


@pytest.mark.parametrize("kind", ["beta", "normal"])
def test_the_band_holds_what_came_after(kind: str) -> None:
    above, below = coverage(kind)
    assert above <= 0.2
    assert below <= 0.15


def test_a_band_only_rises_and_stays_between_the_best_and_one() -> None:
    scores = np.random.default_rng(0).beta(20, 5, 100)
    more_M, (low_M, middle_M, high_M), _ = extrapolate(scores)
    assert more_M[0] == 1
    assert more_M[-1] == 300
    for values_M in (low_M, middle_M, high_M):
        assert (np.diff(values_M) >= 0).all()
        assert values_M[0] >= scores.max()
        assert values_M[-1] <= 1
    assert (low_M <= middle_M).all()
    assert (middle_M <= high_M).all()


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        (np.linspace(0.5, 0.6, LEAST_SCORES - 1), "needs"),
        (np.append(np.linspace(0.5, 0.9, 99), 1.0), "100 %"),
        (np.full(100, 0.7), "tied"),
    ],
)
def test_where_nothing_can_be_said_that_is_said(scores: np.ndarray, why: str) -> None:
    more_M, _, why_not = extrapolate(scores)
    assert len(more_M) == 0
    assert why in why_not


def test_the_curve_of_a_run(finished_run: Path) -> None:
    run = Run.read(finished_run)
    found = future(run.trials)
    finished = [trial.score for trial in run.trials if trial.state == "finished"]
    assert found.score_T.tolist() == finished
    assert found.best_T[-1] == max(score for score in finished if score is not None)
    assert (np.diff(found.best_T) >= 0).all()
    assert (np.diff(found.seconds_T) >= 0).all()
    assert sentence(found) == found.why_not != ""


def test_trials_over_a_limit_cost_time_and_are_never_the_best(finished_run: Path) -> None:
    run = Run.read(finished_run)
    largest = next(trial for trial in run.trials if trial.kind == "largest")
    found = future(run.trials, {trial.number for trial in run.trials if trial.macs < largest.macs})
    everything = future(run.trials)
    scores = [trial.score for trial in run.trials if trial.state == "finished" and trial.macs < largest.macs]
    assert 0 < len(scores) < len(everything.score_T)
    assert found.score_T.tolist() == scores
    assert set(found.seconds_T) < set(everything.seconds_T), "the clock went on for the others"


def test_no_trials_at_all() -> None:
    assert len(future([]).best_T) == 0
