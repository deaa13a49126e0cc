"""A worker whose trials take a given time and compute nothing: what is left is what working together costs.

Run as `python -m nasimb.bench.simulated FOLDER STUDY SECONDS`; the storage's address comes on standard input.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nasimb.budget import Holding
from nasimb.phases.work import Heart, work
from nasimb.search import packets
from nasimb.search.queue import Unit, WorkQueue
from nasimb.search.storage import Reaching, open_storage
from nasimb.search.study import Proposal
from nasimb.search.trial import FINISHED, Trial


def made_trial(asked: Proposal, seconds: float) -> Trial:
    """A trial with a number drawn for a score."""
    score = float(np.random.default_rng(asked.number).random())
    return Trial(
        number=asked.number, state=FINISHED, kind=asked.kind, candidate=asked.candidate, macs=asked.macs,
        params=asked.params, score=score, balanced_loss=1.0, seconds=seconds,
    )  # fmt: skip


def sleeping(seconds: float) -> Callable[[Unit, Callable[[], None]], list[Trial]]:
    """Performs units by sleeping."""

    def perform(unit: Unit, between: Callable[[], None]) -> list[Trial]:
        found = []
        for asked in packets.proposals_of(unit.work):
            between()
            time.sleep(seconds)
            found.append(made_trial(asked, seconds))
        return found

    return perform


def main() -> None:
    """Work until the owner says that it is over."""
    folder, study, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    address = sys.stdin.readline().strip() or None
    queue = WorkQueue(Reaching(open_storage(address, folder), address), study)
    heart = Heart(queue, f"simulated-{os.getpid()}", Holding(0, 1), str(os.getpid()), time.monotonic)
    with heart.beating():
        work(queue, heart, sleeping(seconds), folder, stop=lambda: 0, say=print, patience_seconds=60.0)


if __name__ == "__main__":
    main()
