"""Importances of a made run: what decides the score is named, and what cannot be told is said."""

from __future__ import annotations

import numpy as np
import pytest

from nasimb.report.importance import LEAST_TRIALS, importances
from nasimb.search.trial import FINISHED, Candidate, Trial
from nasimb.space import Subnet


def made_trials(count: int) -> list[Trial]:
    """The score is the width of the second stage, and a little of the norm; the rest is drawn and does nothing."""
    rng = np.random.default_rng(0)
    trials = []
    for number in range(count):
        width, norm = int(rng.choice([8, 16, 32])), str(rng.choice(["bn", "nbn"]))
        subnet = Subnet(int(rng.choice([8, 12])), (1, 1), (4, width), (3, int(rng.choice([3, 5]))), ("bn", norm), 1)
        score = 0.5 + width / 100 + 0.01 * (norm == "nbn")
        trials.append(
            Trial(
                number=number, state=FINISHED, kind="random", candidate=Candidate(subnet, "source"), macs=1, params=1,
                score=score,
            )
        )  # fmt: skip
    return trials


def test_what_decides_the_score_comes_first() -> None:
    table, why_not = importances(made_trials(120))
    assert why_not == ""
    assert table["choice"].iloc[0] == "width 2"
    assert table["importance"].iloc[0] > 0.9
    assert table["importance"].sum() == pytest.approx(1)
    assert set(table["choice"]) == {"width 2", "norm 2", "kernel 2", "resolution"}, "only what varied"


def test_the_same_trials_have_the_same_importances() -> None:
    first, second = (importances(made_trials(60))[0] for _ in range(2))
    assert first.equals(second)


def test_too_few_or_all_alike_is_said() -> None:
    table, why_not = importances(made_trials(LEAST_TRIALS - 1))
    assert table.empty
    assert f"{LEAST_TRIALS - 1}" in why_not
    alike = [trial.repeated_as(trial.number, "random") for trial in made_trials(30)]
    assert importances(alike)[0].empty, "repeats are no trials of their own"
