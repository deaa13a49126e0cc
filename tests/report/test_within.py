"""Questions to finished trials: the limits, the Pareto set, the best, and what is said where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasimb.report import Run
from nasimb.report.within import Found, sentences, within_limits
from nasimb.search.limits import Limits
from nasimb.search.trial import FAILED, FINISHED, SCREENED, Candidate, Trial
from nasimb.space import Subnet

FOLDER = Path("runs/one")


def made(rows: list[tuple[str, float, int, int]], **config: Any) -> Run:
    """A run with trials of (state, score, MACs, params)."""
    trials = [
        Trial(number=number, state=state, kind="random", candidate=Candidate(subnet(number), "source"), macs=macs,
              params=params, score=score if state == FINISHED else None,
              screen_score=score if state == SCREENED else None)
        for number, (state, score, macs, params) in enumerate(rows)
    ]  # fmt: skip
    values = {"objective": "balanced_accuracy", "max_macs": None, "max_params": None, "supernet": None, **config}
    return Run("one", values, None, trials, {})


def subnet(number: int) -> Subnet:
    return Subnet(resolution=number + 1, depths=(1,), widths=(4,), kernel_sizes=(3,), norms=("bn",), taps=1)


ROWS = st.lists(
    st.tuples(
        st.sampled_from([FINISHED, FINISHED, FINISHED, SCREENED, FAILED]),
        st.integers(0, 10).map(lambda tenths: tenths / 10), st.integers(1, 20), st.integers(1, 20),
    ),
    max_size=25,
)  # fmt: skip
LIMIT = st.none() | st.integers(1, 20)


@given(ROWS, LIMIT, LIMIT, st.sampled_from(["macs", "params"]))
def test_the_set_is_what_no_other_trial_beats(
    rows: list[tuple[str, float, int, int]], most_macs: int | None, most_params: int | None, cost: str
) -> None:
    found = within_limits(made(rows), FOLDER, Limits(most_macs, most_params), cost)
    scores, macs, params = (np.array([row[i] for row in rows], float) for i in (1, 2, 3))
    allowed = [
        row[0] == FINISHED and row[2] <= (most_macs or 99) and row[3] <= (most_params or 99) for row in rows
    ]  # fmt: skip
    costs = macs if cost == "macs" else params
    beaten = [
        any(
            allowed[j] and scores[j] >= scores[i] and costs[j] <= costs[i]
            and (scores[j], costs[j]) != (scores[i], costs[i])
            for j in range(len(rows))
        )
        for i in range(len(rows))
    ]  # fmt: skip
    points = {(scores[i], costs[i]) for i in range(len(rows)) if allowed[i] and not beaten[i]}
    assert {(trial.score, getattr(trial, cost)) for trial in found.front} == points
    assert len(found.within) == sum(allowed)
    if found.best is None:
        assert not any(allowed)
    else:
        assert found.best.score == max(scores[i] for i in range(len(rows)) if allowed[i])
    finished = [i for i, row in enumerate(rows) if row[0] == FINISHED]
    if finished:
        assert found.cheapest is not None
        assert getattr(found.cheapest, cost) == min(costs[i] for i in finished)
    json.dumps(found.to_dict(), allow_nan=False)


SOME = [(FINISHED, 0.9, 50, 5), (FINISHED, 0.8, 20, 9), (SCREENED, 1.0, 1, 1)]


def test_a_limit_that_is_not_given_is_the_runs_own() -> None:
    run = made(SOME, max_macs=30, objective="balanced_accuracy,params")
    own = within_limits(run, FOLDER, Limits())
    assert (own.limits, own.cost, [trial.number for trial in own.within]) == (Limits(30), "params", [1])
    assert [trial.number for trial in within_limits(run, FOLDER, Limits(60)).within] == [0, 1]


def test_where_nothing_fits_the_cheapest_is_named() -> None:
    found = within_limits(made(SOME), FOLDER, Limits(max_macs=10))
    text = " ".join(sentences(found, FOLDER))
    assert "No finished trial is within 10 MACs; the cheapest by MACs is trial 1, score 80.0, 20 MACs" in text
    assert "0 of 2 finished trials keep the limits; 1 more saw a part of the images only" in text
    assert found.to_dict()["best"] is None
    assert found.to_dict()["cheapest"]["number"] == 1
    assert "No trial is finished yet." in sentences(within_limits(made([]), FOLDER, Limits()), FOLDER)


@pytest.mark.parametrize(("ready", "told"), [(None, "runs/one/supernet"), ("nets/c100", "nets/c100")])
def test_the_super_network_to_search_on_is_named(ready: str | None, told: str) -> None:
    found = within_limits(made(SOME, supernet=ready), FOLDER, Limits(max_macs=30))
    assert any(f"nasimb search --supernet {told}" in line for line in sentences(found, FOLDER))


def test_of_a_finished_run_the_winner_is_known(finished_run: Path) -> None:
    run = Run.read(finished_run)
    assert run.result is not None
    found = within_limits(run, finished_run, Limits())
    winner = next(trial for trial in run.trials if trial.number == found.winner)
    assert str(winner.candidate.subnet) == run.result["winner"]["name"]
    alone = Found(found.limits, "macs", [winner], [winner], [winner], 0, found.winner, found.supernet)
    assert any(str(finished_run / "best") in line for line in sentences(alone, finished_run))
