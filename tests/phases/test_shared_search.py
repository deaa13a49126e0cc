"""A search shared with workers, which are threads here: exact, in order, each candidate once, whatever happens."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from optuna.storages import InMemoryStorage

import nasimb.search.fleet as fleet_module
from nasimb.budget import Holding
from nasimb.errors import WorkError
from nasimb.phases.search import search
from nasimb.phases.sharing import Sharing
from nasimb.phases.work import Heart, Leaving, Scorer, work
from nasimb.search import packets
from nasimb.search.fleet import Fleet, Rhythm
from nasimb.search.queue import Unit, WorkQueue
from nasimb.search.screening import Screen, class_capped
from nasimb.search.storage import Reaching, StorageError
from nasimb.search.study import Study
from nasimb.search.trial import FAILED, FINISHED, SCREENED, Failure, Trial, trials_of

Workshop = Callable[..., Any]
QUICK = Rhythm(beat_seconds=0.05, grace_seconds=0.6, window_seconds=5.0)


class Meeting:
    """In place of an Exchange: a queue in memory, and whoever is started as a thread."""

    def __init__(self, shop: Any, *, own_work: bool) -> None:
        self.shop, self.own_work = shop, own_work
        self.storage = InMemoryStorage()
        self.queue = WorkQueue(Reaching(self.storage, None), "run")
        self.fleet = Fleet(self.queue, shop.session.ledger, time.monotonic, rhythm=QUICK)

    def join(self) -> Fleet:
        return self.fleet

    def tend(self, left_seconds: float, *, busy: bool = False) -> bool:
        return self.own_work

    def leave(self) -> None:
        pass

    @contextmanager
    def worker(self, name: str, perform: Any = None) -> Iterator[None]:
        """A worker in a thread; it leaves with the search."""
        queue = WorkQueue(Reaching(self.storage, None), "run")
        heart = Heart(queue, name, Holding(0, 1), "a thread", time.monotonic, QUICK)
        scorer = perform or Scorer(self.shop.scoring, seed=0, clock=time.perf_counter)

        def run() -> None:
            with heart.beating():
                work(
                    queue, heart, scorer, self.shop.run.path, stop=lambda: 0, say=lambda line: None,
                    patience_seconds=20.0,
                )  # fmt: skip

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield
        thread.join(20)
        assert not thread.is_alive()


def run(shop: Any, meeting: Meeting, max_trials: int, reserve: float = 0.0) -> list[Trial]:
    with shop.session.ledger.phase("search"):
        return search(
            shop.session, shop.scoring, shop.question, max_trials=max_trials, reserve_seconds=lambda finished: reserve,
            exchange=meeting,  # type: ignore[arg-type]
        )  # fmt: skip


def check(shop: Any, trials: list[Trial], scored: int) -> None:
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert trials_of(shop.run) == trials
    done = [trial for trial in trials if trial.state in (FINISHED, SCREENED)]
    assert len(done) == scored
    assert max(Counter(trial.candidate for trial in done).values()) == 1


@pytest.mark.parametrize("own_work", [True, False])
def test_three_workers_keep_the_cap_exactly_and_score_as_one_would(workshop: Workshop, own_work: bool) -> None:
    shop = workshop()
    meeting = Meeting(shop, own_work=own_work)
    with meeting.worker("a"), meeting.worker("b"), meeting.worker("c"):
        trials = run(shop, meeting, 40)
    check(shop, trials, 40)
    by = Counter(trial.worker for trial in trials if trial.state == FINISHED)
    assert set(by) >= ({"a", "b", "c"} if not own_work else {None})
    alone = {trial.candidate: trial.score for trial in run(workshop(folder="alone"), _nobody(), 40)}  # type: ignore[arg-type]
    same = [trial for trial in trials if trial.candidate in alone and trial.score is not None]
    assert len(same) > 5
    assert all(trial.score == pytest.approx(alone[trial.candidate]) for trial in same)


def _nobody() -> Any:
    class Nobody:
        def join(self) -> None:
            return None

    return Nobody()


def test_kinds_are_those_of_a_search_alone(workshop: Workshop) -> None:
    shop = workshop()
    meeting = Meeting(shop, own_work=False)
    with meeting.worker("a"):
        trials = run(shop, meeting, 16)
    assert [trial.kind for trial in trials[:3]] == ["smallest", "largest", "random"]
    assert {trial.kind for trial in trials} == {"smallest", "largest", "random", "sampler"}


def test_a_unit_whose_worker_vanishes_is_done_again_and_marked(workshop: Workshop) -> None:
    shop = workshop()
    meeting = Meeting(shop, own_work=False)
    vanished = threading.Event()

    def claim_and_vanish() -> None:
        queue = WorkQueue(Reaching(meeting.storage, None), "run")
        heart = Heart(queue, "mortal", Holding(0, 1), "a thread", time.monotonic, QUICK)
        while True:
            heart.beat()
            if heart.granted and (unit := queue.claim("mortal")) is not None:
                vanished.numbers = packets.numbers_of(unit.work)  # type: ignore[attr-defined]
                vanished.set()
                return
            time.sleep(0.05)

    thread = threading.Thread(target=claim_and_vanish, daemon=True)
    thread.start()

    def patient(unit: Unit, between: Callable[[], None]) -> list[Trial]:
        vanished.wait(10)
        return Scorer(shop.scoring, seed=0, clock=time.perf_counter)(unit, between)

    with meeting.worker("survivor", patient):
        trials = run(shop, meeting, 20)
    check(shop, trials, 20)
    again = {trial.number for trial in trials if trial.attempt == 2}
    assert again == set(vanished.numbers)  # type: ignore[attr-defined]
    assert {trial.worker for trial in trials if trial.attempt == 2} == {"survivor"}


def test_what_loses_its_worker_twice_has_failed(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = workshop()
    meeting = Meeting(shop, own_work=False)
    original = Fleet.collect

    def losing(self: Fleet) -> list[fleet_module.Ended]:
        """Whoever has trial 3 is lost, as often as it is tried."""
        return [
            replace(ended, answer=None, lost=True) if 3 in packets.numbers_of(ended.work) else ended
            for ended in original(self)
        ]

    monkeypatch.setattr(Fleet, "collect", losing)
    with meeting.worker("a"):
        trials = run(shop, meeting, 12)
    failed = [trial for trial in trials if trial.state == FAILED]
    assert 3 in {trial.number for trial in failed}
    assert all("lost 2 times" in str(trial.reason) for trial in failed)
    check(shop, trials, 12)


def test_a_shared_search_goes_on_after_a_kill_with_what_was_out(workshop: Workshop) -> None:
    shop = workshop()
    meeting = Meeting(shop, own_work=True)

    class Killed(Exception):
        pass

    def tend(left_seconds: float, *, busy: bool = False) -> bool:
        if len(trials_of(shop.run)) >= 10:
            raise Killed
        return False

    meeting.tend = tend  # type: ignore[method-assign]
    with meeting.worker("a"):
        with pytest.raises(Killed):
            run(shop, meeting, 30)
        before = trials_of(shop.run)
        again = Meeting(shop, own_work=True)
        again.storage, again.queue = meeting.storage, meeting.queue
        again.fleet = Fleet(meeting.queue, shop.session.ledger, time.monotonic, rhythm=QUICK)
        trials = run(shop, again, 30)
    check(shop, trials, 30)
    assert trials[: len(before)] == before


def test_alone_after_shared_goes_on_with_the_same_proposals(workshop: Workshop) -> None:
    shop = workshop()
    meeting = Meeting(shop, own_work=False)
    with meeting.worker("a"):
        run(shop, meeting, 15)
    shop.session = replace(shop.session)
    trials = run(shop, _nobody(), 30)
    check(shop, trials, 30)
    assert any(trial.worker is None for trial in trials)


def test_the_best_of_those_screened_are_promoted_by_workers(workshop: Workshop) -> None:
    shop = workshop()
    part_M = class_capped(shop.scoring.fitted.labels_N, seed=0, cap=2)
    assert part_M is not None
    shop.scoring = replace(shop.scoring, screen=Screen(part_M, None, 4))
    meeting = Meeting(shop, own_work=False)
    with meeting.worker("a"), meeting.worker("b"):
        trials = run(shop, meeting, 24)
    check(shop, trials, 24)
    promoted = [trial for trial in trials if trial.state == FINISHED]
    screened = [trial for trial in trials if trial.state == SCREENED]
    assert len(promoted) >= 24 / 4
    assert screened
    assert min(t.screen_score or 0 for t in promoted if t.kind == "sampler") >= min(
        t.screen_score or 0 for t in screened
    )


def test_when_nobody_is_left_and_time_is_over_the_search_ends(workshop: Workshop) -> None:
    shop = workshop(limit=100.0)
    meeting = Meeting(shop, own_work=True)
    with shop.session.ledger.phase("search"):
        shop.clock.now += 99.5
        trials = search(
            shop.session, shop.scoring, shop.question, max_trials=None, reserve_seconds=lambda finished: 1.0,
            exchange=meeting,  # type: ignore[arg-type]
        )  # fmt: skip
    assert len(trials) == 2  # the smallest and the largest are needed whatever they cost


def test_what_was_answered_behind_work_given_back_is_kept_when_time_ends(workshop: Workshop) -> None:
    shop = workshop(limit=100.0)
    meeting = Meeting(shop, own_work=False)
    given_back: list[int] = []

    def perform(unit: Unit, between: Callable[[], None]) -> list[Trial]:
        numbers = packets.numbers_of(unit.work)
        if min(numbers) >= 4 and not given_back:
            given_back.extend(numbers)
            deadline = time.monotonic() + 20
            while not any(u.answer for u in meeting.queue.units() if min(packets.numbers_of(u.work)) > max(numbers)):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            shop.clock.now += 99.5
            raise Leaving("a worker keeps to its grant", got="the time granted is used up", do="Extend the budget.")
        return Scorer(shop.scoring, seed=0, clock=time.perf_counter)(unit, between)

    with meeting.worker("a", perform), meeting.worker("b", perform), shop.session.ledger.phase("search"):
        trials = search(
            shop.session, shop.scoring, shop.question, max_trials=None, reserve_seconds=lambda finished: 1.0,
            exchange=meeting,  # type: ignore[arg-type]
        )  # fmt: skip
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert max(trial.number for trial in trials if trial.state == FINISHED) > max(given_back)
    left = [trial for trial in trials if trial.number in given_back]
    assert {(trial.state, trial.failure) for trial in left} == {(FAILED, Failure.TIMEOUT)}


def test_a_storage_away_when_the_search_is_over_does_not_end_the_run(workshop: Workshop) -> None:
    shop = workshop()
    meeting = Meeting(shop, own_work=True)
    reaching = meeting.queue.reaching
    whole = meeting.fleet.close

    def close() -> None:
        assert reaching.patience_seconds <= 2.0
        whole()
        raise StorageError("the storage must be reachable", got="no answer", do="Start it again.")

    meeting.fleet.close = close  # type: ignore[method-assign]
    trials = run(shop, meeting, 8)
    check(shop, trials, 8)
    assert any("were not told that the search is over" in line for line in shop.watcher.lines)


def test_one_failure_after_another_ends_it(workshop: Workshop) -> None:
    shop = workshop()
    meeting = Meeting(shop, own_work=False)

    def fail(unit: Unit, between: Callable[[], None]) -> list[Trial]:
        found = Scorer(shop.scoring, seed=0, clock=time.perf_counter)(unit, between)
        return [replace(trial, state=FAILED, score=None, reason="features are NaN") for trial in found]

    with meeting.worker("a", fail):
        try:
            with pytest.raises(WorkError, match="features are NaN"):
                run(shop, meeting, 30)
        finally:
            meeting.fleet.close()


def test_the_study_keeps_proposals_that_are_out_in_its_journal(workshop: Workshop) -> None:
    shop = workshop()
    study = Study(shop.question, shop.scoring.cost_of, journal=shop.run.journal)
    first = study.unclaimed(5, set())
    more = study.unclaimed(5, {one.number for one in first})
    again = Study(shop.question, shop.scoring.cost_of, journal=shop.run.journal)
    assert again.unclaimed(5, set()) == first
    assert again.unclaimed(5, {one.number for one in first}) == more
    assert Sharing() == Sharing(0, None)
