"""The cost of a trial without its score: whose time is whose, and the search as it is run."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from nasimb.bench import storage
from nasimb.bench.base import Conditions
from nasimb.bench.testbed import load_testbed
from nasimb.search.study import Proposal
from nasimb.search.trial import Candidate


def proposals(quick: Callable[..., Conditions], *numbers: int) -> list[Proposal]:
    subnet = load_testbed(quick()).space.smallest()
    return [Proposal(number, "random", Candidate(subnet, "source"), 10, 20) for number in numbers]


def test_the_time_to_the_next_batch_is_shared_by_the_trials_until_then(quick, clock) -> None:
    free = storage.Free(clock, seed=0)
    clock.now = 5.0
    first = list(free(proposals(quick, 0, 1)))
    assert [trial.number for trial in first] == [0, 1]
    assert len({trial.score for trial in first}) == 2
    clock.now = 11.0  # trial 2 was a repeat, which nobody asked to be scored
    list(free(proposals(quick, 3)))
    assert free.trial_seconds(4, 11.5) == [2.0, 2.0, 2.0, 0.5]


def test_the_figure_says_whether_the_last_trials_cost_more_than_the_first() -> None:
    figure, flat = storage.figures([0.001] * 99 + [1.0] + [0.002] * 800 + [0.003] * 100, "tpe")
    assert figure.value == pytest.approx(2.0)
    assert figure.unit == "ms"
    assert figure.met is True
    assert figure.repetitions == 1000
    assert flat.figure == "orchestration_flat"
    assert flat.value == pytest.approx(3.0)
    assert (flat.target, flat.met) == ("<= 1.5", False)
    assert "last 100 trials" in flat.against


def test_a_whole_search_is_timed_with_everything_on_disk(quick: Callable[..., Conditions], tmp_path) -> None:
    conditions = quick(clock=time.perf_counter)
    figure, flat = storage.orchestration(conditions)
    assert figure.repetitions >= storage.QUICK_TRIALS
    assert figure.provenance["data"] == flat.provenance["data"] == "made"
    assert 0 < figure.value < 1000
