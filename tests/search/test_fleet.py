"""The owner's side on a clock that tests drive: what is lost, what is charged, and a day of 256 mortal workers."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nasimb.budget import NOTHING, Budget, Holding
from nasimb.ledger import Ledger
from nasimb.search.fleet import RHYTHM, Fleet, Rhythm
from nasimb.search.queue import OVER, Beat, Unit, WorkQueue
from nasimb.search.storage import Reaching

BEAT_SECONDS, GRACE_SECONDS, WINDOW_SECONDS = RHYTHM.beat_seconds, RHYTHM.grace_seconds, RHYTHM.window_seconds


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Bench:
    """A fleet and its surroundings."""

    clock: FakeClock
    ledger: Ledger
    queue: WorkQueue
    fleet: Fleet
    said: list[str]

    def pass_time(self, seconds: float, *beating: str) -> None:
        """Beat after beat; those named beat along."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += BEAT_SECONDS
            for name in beating:
                self.beat(name)
            self.fleet.serve()

    def beat(self, name: str, **changes: object) -> None:
        last = self.queue.beats().get(name, Beat(0, 0.0, 0, 1, "here"))
        held = last.held_seconds + (BEAT_SECONDS if last.count else 0.0)
        self.queue.beat(name, replace(last, **{"count": last.count + 1, "held_seconds": held, **changes}))


@pytest.fixture
def bench() -> Bench:
    clock, said = FakeClock(), []
    ledger = Ledger(None, clock, Budget.parse("1000cpu-s"), Holding(0, 1))
    queue = WorkQueue(Reaching(InMemoryStorage(), None), "run")
    return Bench(clock, ledger, queue, Fleet(queue, ledger, clock, say=said.append), said)


def test_a_worker_is_granted_time_and_charged_what_it_held(bench: Bench) -> None:
    bench.beat("w1")
    bench.fleet.serve()
    assert bench.queue.owner().granted_seconds == {"w1": WINDOW_SECONDS}
    assert (bench.fleet.size, bench.fleet.holding) == (1, Holding(0, 1))
    bench.pass_time(60, "w1")
    assert bench.ledger.charged("w1") == 60
    assert bench.queue.owner().granted_seconds["w1"] == 60 + WINDOW_SECONDS
    bench.beat("w1", left=True)
    bench.pass_time(BEAT_SECONDS)
    assert bench.fleet.size == 0
    assert bench.ledger.charged("w1") == 62


def test_no_limit_of_time_grants_without_end() -> None:
    clock = FakeClock()
    queue = WorkQueue(Reaching(InMemoryStorage(), None), "run")
    fleet = Fleet(queue, Ledger(None, clock, Budget.parse("5trials"), Holding(0, 1)), clock)
    queue.beat("w1", Beat(1, 0.0, 0, 1, "here"))
    fleet.serve()
    assert queue.owner().granted_seconds == {"w1": None}


def test_the_unit_of_a_lost_worker_comes_back_and_its_late_answer_is_refused(bench: Bench) -> None:
    bench.beat("w1")
    bench.fleet.serve()
    bench.fleet.put({"numbers": [3]})
    unit = bench.queue.claim("w1")
    assert unit is not None
    bench.pass_time(GRACE_SECONDS - BEAT_SECONDS)
    assert bench.fleet.collect() == []
    bench.pass_time(2 * BEAT_SECONDS)
    (ended,) = bench.fleet.collect()
    assert ended.lost
    assert ended.answer is None
    assert ended.work == {"numbers": [3]}
    assert not bench.queue.answer(unit, {"rows": []})
    assert any("lost" in line for line in bench.said)
    bench.beat("w1")  # it was only asleep
    bench.pass_time(BEAT_SECONDS)
    assert bench.fleet.size == 1


def test_who_is_known_to_be_dead_is_not_waited_for(bench: Bench) -> None:
    bench.beat("host-12-ab")
    bench.beat("host-123-cd")
    bench.fleet.serve()
    bench.fleet.put({"numbers": [3]})
    assert bench.queue.claim("host-12-ab") is not None
    bench.fleet.bury("host-12-")
    assert bench.fleet.size == 1
    (ended,) = bench.fleet.collect()
    assert ended.lost
    bench.pass_time(BEAT_SECONDS, "host-123-cd")
    assert bench.fleet.size == 1


def test_a_unit_given_back_is_not_lost(bench: Bench) -> None:
    bench.beat("w1")
    bench.fleet.serve()
    bench.fleet.put({"numbers": [3]})
    unit = bench.queue.claim("w1")
    assert unit is not None
    bench.queue.answer(unit, {"returned": "signal 15"})
    (ended,) = bench.fleet.collect()
    assert (ended.answer, ended.lost) == (None, False)
    assert bench.fleet.out == 0


def test_a_claim_of_nobody_is_put_again_and_no_attempt(bench: Bench) -> None:
    bench.fleet.put({"numbers": [3]})
    (unit,) = bench.queue.units()
    bench.queue.reaching("set_trial_state_values", unit.key, TrialState.RUNNING)  # killed before it could say its name
    bench.pass_time(BEAT_SECONDS)
    assert bench.fleet.collect() == []
    bench.pass_time(GRACE_SECONDS + BEAT_SECONDS)
    (ended,) = bench.fleet.collect()
    assert (ended.answer, ended.lost) == (None, False)


def test_what_the_study_does_not_ask_any_more_is_not_adopted(bench: Bench) -> None:
    bench.beat("w1")
    bench.fleet.serve()
    for number in range(3):
        bench.fleet.put({"numbers": [number]})
    units = [bench.queue.claim("w1") for _ in range(2)]
    assert units[0] is not None
    assert bench.queue.answer(units[0], {"rows": [1]})
    again = Fleet(bench.queue, bench.ledger, bench.clock)
    assert list(again.adopt(lambda work: False)) == []
    assert again.out == 0
    assert units[1] is not None
    assert not bench.queue.answer(units[1], {"rows": [2]})


def test_what_nobody_can_claim_any_more_goes_back_to_the_owner(bench: Bench) -> None:
    bench.beat("w1")
    bench.fleet.serve()
    bench.fleet.put({"numbers": [3]})
    assert bench.fleet.collect() == []
    bench.beat("w1", left=True)
    bench.pass_time(BEAT_SECONDS)
    (ended,) = bench.fleet.collect()
    assert (ended.answer, ended.lost, ended.work) == (None, False, {"numbers": [3]})
    assert bench.queue.claim("late") is None


def test_whoever_worked_for_an_earlier_owner_is_there_once_it_beats(bench: Bench) -> None:
    bench.beat("old")
    again = Fleet(bench.queue, bench.ledger, bench.clock)
    again.serve()
    assert again.size == 0
    bench.beat("old")
    bench.clock.now += BEAT_SECONDS
    again.serve()
    assert again.size == 1


def test_nobody_is_lost_because_the_owner_could_not_hear(bench: Bench) -> None:
    bench.beat("w1")
    bench.fleet.serve()
    bench.clock.now += 10 * GRACE_SECONDS  # the storage was away
    bench.fleet.serve()
    assert bench.fleet.size == 1
    bench.pass_time(2 * GRACE_SECONDS)
    assert bench.fleet.size == 0


def test_after_a_restart_what_is_out_is_out_and_what_was_answered_is_found(bench: Bench) -> None:
    for number in range(4):
        bench.fleet.put({"numbers": [number]})
    for name in ("answered", "running", "returned"):
        unit = bench.queue.claim(name)
        assert unit is not None
        if name != "running":
            assert bench.queue.answer(unit, {"rows": [1]} if name == "answered" else {"returned": "why"})
    bench.queue.beat("running", Beat(5, 40.0, 0, 1, "there"))
    again = Fleet(bench.queue, bench.ledger, bench.clock)
    assert [(ended.work, ended.answer) for ended in again.adopt()] == [({"numbers": [0]}, {"rows": [1]})]
    assert again.out == 1  # what nobody had claimed is put anew
    again.serve()
    assert bench.ledger.charged("running") == 40  # held while nobody was there to charge it


def test_when_the_work_is_over_everybody_is_told(bench: Bench) -> None:
    bench.fleet.put({"numbers": [3]})
    bench.fleet.close()
    assert bench.queue.owner().state == OVER
    assert bench.queue.claim("w1") is None


HOUR, WORKERS = 3600.0, 256
SLOW = Rhythm(beat_seconds=60.0, grace_seconds=300.0, window_seconds=600.0)


class Day:
    """256 workers on one clock, event by event: trials take minutes, one in a hundred dies every hour and is replaced.

    Workers obey what real ones do: they claim only within what is granted, and drop their unit when it is used up.
    """

    def __init__(self, budget: str, seed: int) -> None:
        self.rng, self.clock = np.random.default_rng(seed), FakeClock()
        self.ledger = Ledger(None, self.clock, Budget.parse(budget), Holding(1, 1))
        self.queue = WorkQueue(Reaching(InMemoryStorage(), None), "run")
        self.fleet = Fleet(self.queue, self.ledger, self.clock, rhythm=SLOW)
        self.events: list[tuple[float, int, str, str]] = []
        self.births: dict[str, float] = {}
        self.deaths: dict[str, float] = {}
        self.beats: Counter[str] = Counter()
        self.units: dict[str, Unit] = {}
        self.done: Counter[int] = Counter()
        self.next_number, self.requeued, self.late = 0, 0, 0
        for number in range(WORKERS):
            self.push(self.rng.random() * 60, "born", f"w{number}")
        self.push(0, "serve", "owner")

    def push(self, after: float, what: str, who: str) -> None:
        heapq.heappush(self.events, (self.clock.now + after, len(self.events) + self.beats.total(), what, who))

    def run(self, trials: int) -> None:
        """Until so many trials are done, or everybody has left."""
        self.trials = trials
        with self.ledger.phase("search", NOTHING):
            while self.events and self.done.total() < trials:
                self.clock.now, _, what, who = heapq.heappop(self.events)
                getattr(self, what)(who)
            self.fleet.close()

    def serve(self, who: str) -> None:
        self.fleet.serve()
        for ended in self.fleet.collect():
            if ended.answer is None:
                self.requeued += 1
                self.fleet.put(ended.work)
            else:
                self.done[ended.work["number"]] += 1
        ahead = 64 + self.fleet.size
        while (
            self.next_number < self.trials and self.fleet.out < ahead and self.ledger.remaining(self.fleet.holding) > 0
        ):
            self.fleet.put({"number": self.next_number})
            self.next_number += 1
        if self.ledger.remaining(self.fleet.holding) > 1e-6 or self.fleet.size:
            self.push(60, "serve", who)

    def held(self, who: str) -> float:
        return self.deaths.get(who, self.clock.now) - self.births[who]

    def born(self, who: str) -> None:
        self.births[who] = self.clock.now
        self.beat(who)
        self.push(self.rng.exponential(100 * HOUR), "die", who)
        self.push(30, "claim", who)

    def beat(self, who: str, *, left: bool = False) -> None:
        if who not in self.deaths:
            self.beats[who] += 1
            self.queue.beat(who, Beat(self.beats[who], self.held(who), 1, 4, "there", left=left))
            if not left:
                self.push(60, "beat", who)

    def die(self, who: str) -> None:
        if who not in self.deaths:
            self.deaths[who] = self.clock.now
            self.push(30, "born", f"{who}x")

    def leave(self, who: str) -> None:
        self.beat(who, left=True)
        self.deaths[who] = self.clock.now

    def finish(self, who: str) -> None:
        unit = self.units.pop(who)
        if who in self.deaths:
            self.late += not self.queue.answer(unit, {})  # only thought dead, its answer may still come
            return
        assert self.queue.answer(unit, {})
        self.claim(who)

    def claim(self, who: str) -> None:
        if who in self.deaths:
            return
        granted = self.queue.owner().granted_seconds.get(who)
        if granted is None:
            self.push(20, "claim", who)  # not heard yet
            return
        left = granted - self.held(who)
        if left <= 0:
            self.leave(who)
            return
        unit = self.queue.claim(who)
        if unit is None:
            self.push(min(20, left), "claim", who)
            return
        self.units[who] = unit
        self.push(self.rng.gamma(4, 250), "finish", who)
        self.watch(who)

    def watch(self, who: str) -> None:
        """Between two units of work: whoever has used up its grant drops what it is at."""
        if who in self.units and who not in self.deaths:
            left = self.queue.owner().granted_seconds[who] - self.held(who)
            if left <= 1e-9:
                self.queue.answer(self.units[who], {"returned": "the budget is spent"})
                self.leave(who)
            else:
                self.push(left, "watch", who)


@pytest.mark.slow
def test_ten_thousand_trials_of_256_mortal_workers_are_each_done_once() -> None:
    day = Day(f"24h,{WORKERS * 24}gpu-h", seed=0)
    day.run(10_000)
    assert day.done == Counter(range(10_000))
    assert len(day.deaths) > 20
    assert day.requeued >= len(day.deaths) / 2
    assert day.late > 0


@pytest.mark.slow
def test_a_day_of_256_mortal_workers_never_spends_more_than_the_budget() -> None:
    limit = 500 * HOUR
    day = Day(f"24h,{limit / HOUR}gpu-h", seed=1)
    day.run(10**6)
    held = sum(day.held(who) for who in day.births)
    assert 0.995 * limit <= day.ledger.spent_of("gpu") <= limit
    # What the ledger does not know is what the dead held after their last beat.
    assert held - day.ledger.spent_of("gpu") <= 60 * len(day.births)
    assert held <= limit + 60 * len(day.births)
    assert max(day.done.values()) == 1
