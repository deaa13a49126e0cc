"""A worker's heart: it beats while somebody works."""

from __future__ import annotations

import threading
import time

from optuna.storages import InMemoryStorage

from nasimb.budget import Holding
from nasimb.phases.work import Heart
from nasimb.search.fleet import Rhythm
from nasimb.search.queue import WorkQueue
from nasimb.search.storage import Reaching


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
