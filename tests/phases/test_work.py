"""A worker's heart: it beats while somebody works."""

from __future__ import annotations

import threading
import time

from optuna.storages import InMemoryStorage

from nasimb.budget import Holding
from nasimb.phases.work import Heart
from nasimb.search.fleet import Rhythm
from nasimb.search.queue import OPEN, Beat, Owner, WorkQueue
from nasimb.search.storage import Reaching


def test_a_worker_that_was_out_of_reach_waits_until_its_owner_knows_how_long_it_has_been_here() -> None:
    now = [0.0]

    class Slow(WorkQueue):
        takes_seconds = 0.0

        def beat(self, worker: str, beat: Beat) -> None:
            super().beat(worker, beat)
            now[0] += self.takes_seconds

    queue = Slow(Reaching(InMemoryStorage(), None), "run")
    heart = Heart(queue, "worker", Holding(0, 1), "a thread", lambda: now[0])
    queue.announce(Owner(1, OPEN, {"worker": 10.0}))
    heart.beat()
    assert heart.granted
    queue.takes_seconds = 40.0  # the storage was away
    queue.announce(Owner(2, OPEN, {"worker": 20.0}))
    heart.beat()
    queue.takes_seconds = 0.0
    for count in (3, 4):
        assert (heart.granted, heart.spent) == (False, False)
        queue.announce(Owner(count, OPEN, {"worker": 20.0}))  # by what it knew before
        heart.beat()
    assert not heart.spent
    queue.announce(Owner(5, OPEN, {"worker": 20.0}))
    heart.beat()
    assert heart.spent


def test_a_worker_that_is_stuck_falls_silent_until_it_goes_on() -> None:
    queue = WorkQueue(Reaching(InMemoryStorage(), None), "run")
    rhythm = Rhythm(beat_seconds=0.02, stuck_seconds=100.0)
    now = [0.0]
    heart = Heart(queue, "worker", Holding(0, 1), "a thread", lambda: now[0], rhythm)

    def beats() -> int:
        return queue.beats()["worker"].count

    def beats_more() -> bool:
        before, deadline = beats(), time.monotonic() + 5
        while beats() == before and time.monotonic() < deadline:
            threading.Event().wait(0.02)
        return beats() > before

    with heart.beating():
        assert beats_more()
        now[0] += 101.0
        time.sleep(0.1)  # one that was under way
        before = beats()
        time.sleep(0.3)
        assert beats() == before
        heart.step()
        assert beats_more()
    assert queue.beats()["worker"].left
