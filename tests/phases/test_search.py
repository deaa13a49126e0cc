"""The search phase: rows, failures, limits of time and number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import nasimb.phases.search as phase
from nasimb.errors import WorkError
from nasimb.phases.search import GIVE_UP, search
from nasimb.search.trial import FAILED, FINISHED, Trial

Workshop = Callable[..., Any]


def run(shop: Any, max_trials: int | None = 8, reserve: float = 0.0) -> list[Trial]:
    with shop.session.ledger.phase("search"):
        return search(
            shop.session, shop.scoring, shop.question, max_trials=max_trials, reserve_seconds=lambda finished: reserve
        )


def failing(monkeypatch: pytest.MonkeyPatch, which: Callable[[int], bool]) -> list[Any]:
    original, asked = phase.evaluate, []

    def evaluate(scoring: Any, number: int, kind: str, candidate: Any, *args: Any, **options: Any) -> Trial:
        asked.append(candidate)
        trial = original(scoring, number, kind, candidate, *args, **options)
        return replace(trial, state=FAILED, score=None, reason="features are NaN") if which(number) else trial

    monkeypatch.setattr(phase, "evaluate", evaluate)
    return asked


def test_every_trial_is_a_row_that_reads_back(workshop: Workshop) -> None:
    shop = workshop()
    trials = run(shop)
    assert [Trial.from_row(row) for row in shop.run.read_trials()] == trials
    assert sum(trial.state == FINISHED for trial in trials) == 8


def test_a_search_goes_on_where_its_rows_end(workshop: Workshop) -> None:
    whole = run(workshop(folder="whole"), 14)
    shop = workshop(folder="parts")
    run(shop, 5)
    assert run(shop, 14) == whole


@pytest.mark.parametrize("first", [0, 1])
def test_failures_are_rows_with_a_reason_and_the_search_goes_on(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    asked = failing(monkeypatch, lambda number: number in (first, 5))
    trials = run(workshop(), 10)
    assert [trial.number for trial in trials if trial.state == FAILED] == [first, 5]
    assert sum(trial.state == FINISHED for trial in trials) == 10
    assert len(asked) == len(set(asked))  # a failure is not tried again either


def test_a_search_in_which_everything_fails_ends_with_the_reason(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = failing(monkeypatch, lambda number: True)
    with pytest.raises(WorkError, match="features are NaN"):
        run(workshop())
    assert len(asked) == GIVE_UP


def test_nothing_starts_that_would_eat_into_the_reserve(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = workshop(limit=100.0)
    original = phase.evaluate

    def slow(*args: Any, **options: Any) -> Trial:
        shop.clock.now += 3.0
        return original(*args, **options)

    monkeypatch.setattr(phase, "evaluate", slow)
    trials = run(shop, None, reserve=40.0)
    assert 50.0 <= shop.session.ledger.spent("search") <= 60.0
    assert all(trial.seconds == 3.0 for trial in trials if trial.state == FINISHED)
