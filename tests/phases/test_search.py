"""The search phase: rows, failures, limits of time and number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

import nasimb.phases.search as phase
from nasimb.errors import Interrupted, WorkError
from nasimb.phases.search import GIVE_UP, HOPELESS, MOST_TOGETHER_SECONDS, search
from nasimb.rundir import RunDir
from nasimb.search import engine
from nasimb.search.study import Proposal
from nasimb.search.trial import FAILED, FINISHED, SCREENED, Failure, Trial

Workshop = Callable[..., Any]


def run(shop: Any, max_trials: int | None = 8, reserve: float = 0.0) -> list[Trial]:
    with shop.session.ledger.phase("search"):
        return search(
            shop.session, shop.scoring, shop.question, max_trials=max_trials, reserve_seconds=lambda finished: reserve
        )


def failing(monkeypatch: pytest.MonkeyPatch, which: Callable[[int], bool]) -> list[Any]:
    original, asked = phase.evaluate_batch, []

    def evaluate_batch(scoring: Any, proposals: Sequence[Proposal], *args: Any, **options: Any) -> list[Trial]:
        asked.extend(proposal.candidate for proposal in proposals)
        return [
            replace(trial, state=FAILED, score=None, reason="features are NaN") if which(trial.number) else trial
            for trial in original(scoring, proposals, *args, **options)
        ]

    monkeypatch.setattr(phase, "evaluate_batch", evaluate_batch)
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
    shop = workshop()
    with pytest.raises(WorkError, match="features are NaN"):
        run(shop)
    assert GIVE_UP <= len(asked) == len(shop.run.read_trials()) < 2 * GIVE_UP


@pytest.mark.parametrize("limit", [None, 1e6])
def test_a_search_that_only_fails_from_somewhere_on_ends_with_what_it_has(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, limit: float | None
) -> None:
    asked = failing(monkeypatch, lambda number: number > 2)
    shop = workshop(limit=limit)
    trials = run(shop, 8 if limit is None else None)
    assert sum(trial.state == FINISHED for trial in trials) == 3
    assert HOPELESS <= len(asked) < 2 * HOPELESS
    assert any(f"{HOPELESS} candidates failed in a row" in line for line in shop.watcher.lines)


def test_rows_of_a_batch_are_written_together_and_before_anything_else_happens(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, written = workshop(), []
    append = RunDir.append_trials
    monkeypatch.setattr(RunDir, "append_trials", lambda run, rows: written.append(len(rows)) or append(run, rows))
    run(shop, 20)
    assert written[:2] == [2, 10]
    assert sum(written) == len(shop.run.read_trials())


def test_the_detail_says_how_many_were_screened_and_promoted(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, shown = workshop(), []
    shop.watcher.show = shown.append

    def evaluate_batch(scoring: Any, proposals: Sequence[Proposal], *args: Any, **options: Any) -> list[Trial]:
        def trial(p: Proposal) -> Trial:
            values = {"state": SCREENED} if p.number % 3 else {"state": FINISHED, "score": 0.5}
            return Trial(number=p.number, kind=p.kind, candidate=p.candidate, macs=p.macs, params=p.params,
                         screen_score=0.4, **values)  # fmt: skip

        return [trial(p) for p in proposals]

    monkeypatch.setattr(phase, "evaluate_batch", evaluate_batch)
    trials = run(shop, 12)
    assert sum(trial.state == SCREENED for trial in trials) == 8
    assert shown[-1].detail.startswith("12 candidates (12 screened, 4 promoted), best 0.500 at ")
    assert shown[-1].fraction == 1.0


def test_nothing_starts_that_would_eat_into_the_reserve(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = workshop(limit=100.0)
    original = phase.evaluate_batch

    def slow(scoring: Any, proposals: Sequence[Proposal], *args: Any, **options: Any) -> list[Trial]:
        shop.clock.now += 3.0 * len(proposals)
        return [replace(trial, seconds=3.0) for trial in original(scoring, proposals, *args, **options)]

    monkeypatch.setattr(phase, "evaluate_batch", slow)
    trials = run(shop, None, reserve=40.0)
    assert 54.0 <= shop.session.ledger.spent("search") <= 60.0
    assert all(trial.seconds == 3.0 for trial in trials if trial.state == FINISHED)


def test_a_candidate_that_is_stuck_is_given_up_before_it_takes_what_the_rest_needs(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, original = workshop(limit=100.0), engine.sweep
    stuck: list[int] = []

    def sweep(scoring: Any, tree: Any, images: Any, members: Any, **options: Any) -> Any:
        seconds = 1.0 * len(members)
        for _ in range(400 if len(shop.run.read_trials()) > 8 else 1):
            shop.clock.now += seconds
            options["between"]()
            stuck.append(1)
        return original(scoring, tree, images, members, **options)

    monkeypatch.setattr(engine, "sweep", sweep)
    trials = run(shop, None, reserve=40.0)
    late = [trial for trial in trials if trial.failure is Failure.TIMEOUT]
    assert late
    assert trials[-len(late) :] == late
    assert all(trial.state == FAILED and trial.seconds > 0 for trial in late)
    assert "were predicted" in str(late[0].reason)
    # Not much of the reserve is gone: a little more than what is twice the prediction.
    assert 60.0 <= shop.session.ledger.spent("search") < 85.0
    assert [Trial.from_row(row) for row in shop.run.read_trials()] == trials
    seconds = sum(trial.seconds for trial in trials)
    assert seconds == pytest.approx(shop.session.ledger.spent("search"), rel=0.02)


def costing(shop: Any, monkeypatch: pytest.MonkeyPatch, seconds: float, most_ticks: int = 1) -> list[tuple[int, int]]:
    """Candidates that take so long each; (first number, how many) of every group that is scored together."""
    groups: list[tuple[int, int]] = []

    def evaluate_batch(scoring: Any, proposals: Sequence[Proposal], *args: Any, **options: Any) -> list[Trial]:
        groups.append((proposals[0].number, len(proposals)))
        for _ in range(most_ticks):
            options["between"]()
        shop.clock.now += seconds * len(proposals)
        return [
            Trial(number=p.number, kind=p.kind, candidate=p.candidate, macs=p.macs, params=p.params, seconds=seconds,
                  state=FINISHED, score=0.5) for p in proposals
        ]  # fmt: skip

    monkeypatch.setattr(phase, "evaluate_batch", evaluate_batch)
    return groups


@pytest.mark.parametrize("limit", [None, 1e6])
@pytest.mark.parametrize(("seconds", "together"), [(1.0, 10), (20.0, 4), (300.0, 1)])
def test_no_more_is_scored_together_than_a_kill_may_cost(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, limit: float | None, seconds: float, together: int
) -> None:
    shop = workshop(limit=limit)
    groups = costing(shop, monkeypatch, seconds)
    run(shop, 16)
    assert groups[0] == (0, 2)
    sizes = [size for first, size in groups if 2 <= first < 12]
    assert max(sizes) <= together
    assert max(sizes) * seconds <= max(MOST_TOGETHER_SECONDS, seconds)
    assert sum(sizes) == 10
    assert (max(sizes) > 1) is (together > 1)


def test_what_must_be_left_is_asked_for_as_many_as_are_scored_together(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trials may use what later ones must leave: a group must not take it for itself as a whole."""
    shop = workshop(limit=100.0)
    groups = costing(shop, monkeypatch, 1.0)
    with shop.session.ledger.phase("search"):
        trials = search(
            shop.session, shop.scoring, shop.question, max_trials=None,
            reserve_seconds=lambda finished: 97.0 if finished > 2 else 5.0,
        )  # fmt: skip
    # One more is within what must be left after the first two; ten more would not be.
    assert groups == [(0, 2), (2, 1)]
    assert len(trials) == 3


def test_within_a_group_every_tick_obeys_signals_and_nothing_is_sorted(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, sorted_for = workshop(), []
    detail = phase._detail
    monkeypatch.setattr(phase, "_detail", lambda trials: sorted_for.append(len(trials)) or detail(trials))
    shown: list[Any] = []
    shop.watcher.show = shown.append
    groups = costing(shop, monkeypatch, 0.1, most_ticks=50)
    run(shop, 12)
    assert len(shown) >= 50 * len(groups)
    assert len(sorted_for) <= 1 + 2 * len(groups)
    asked = iter([0] * 60)
    stopped = replace(shop.session, stop=lambda: next(asked, 15))
    with pytest.raises(Interrupted):
        search(stopped, shop.scoring, shop.question, max_trials=40, reserve_seconds=lambda finished: 0.0)
    assert len(shop.run.read_trials()) >= 12


def test_the_share_that_is_done_grows_within_a_group(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop, shown = workshop(limit=100.0), []
    shop.watcher.show = shown.append

    def evaluate_batch(scoring: Any, proposals: Sequence[Proposal], *args: Any, **options: Any) -> list[Trial]:
        def trial(p: Proposal) -> Trial:
            shop.clock.now += 2.0
            options["between"]()
            return Trial(number=p.number, kind=p.kind, candidate=p.candidate, macs=p.macs, params=p.params,
                         seconds=2.0, state=FINISHED, score=0.5)  # fmt: skip

        return [trial(p) for p in proposals]

    monkeypatch.setattr(phase, "evaluate_batch", evaluate_batch)
    run(shop, None)
    within = [progress.fraction for progress in shown]
    assert within == sorted(within)
    assert len(set(within)) == shop.clock.now / 2.0


def test_a_candidate_that_failed_after_it_was_screened_counts_nowhere(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate_batch(scoring: Any, proposals: Sequence[Proposal], *args: Any, **options: Any) -> list[Trial]:
        def trial(p: Proposal) -> Trial:
            wrong = {"state": FAILED, "reason": "NaN"} if p.number % 4 == 3 else {"state": SCREENED}
            values = {"state": FINISHED, "score": 0.5} if p.number % 4 == 0 else wrong
            return Trial(number=p.number, kind=p.kind, candidate=p.candidate, macs=p.macs, params=p.params,
                         screen_score=0.9, **values)  # fmt: skip

        return [trial(p) for p in proposals]

    shop, shown = workshop(), []
    shop.watcher.show = shown.append
    monkeypatch.setattr(phase, "evaluate_batch", evaluate_batch)
    trials = run(shop, 12)
    states = [trial.state for trial in trials]
    assert states.count(FINISHED) + states.count(SCREENED) == 12
    assert states.count(FAILED) >= 3
    assert shown[-1].detail.startswith(f"12 candidates (12 screened, {states.count(FINISHED)} promoted), best 0.500")
    receipt = shop.scoring.screen and shop.scoring.screen.receipt(trials, len(shop.scoring.fitted))
    assert receipt is None or receipt["screened"] == 12
