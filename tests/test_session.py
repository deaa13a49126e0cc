"""What every phase does after a unit of work: charge, show, obey."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasimb.budget import Budget
from nasimb.errors import Interrupted
from nasimb.ledger import Ledger, clock_seconds, read_account
from nasimb.progress import Progress, Silent, Watcher
from nasimb.rundir import RunDir
from nasimb.session import Session


class Listener(Silent):
    def __init__(self) -> None:
        self.shown: list[Progress] = []

    def show(self, progress: Progress) -> None:
        self.shown.append(progress)


def session(tmp_path: Path, watcher: Watcher, stop: int = 0, limit: float | None = None) -> tuple[Session, list[float]]:
    now = [50.0]
    run = RunDir(tmp_path)

    def clock() -> float:
        return now[0]

    return Session(
        run,
        Ledger(run.ledger, clock, None if limit is None else Budget.parse(f"{limit}s")),
        clock,
        watcher,
        lambda: stop,
    ), now


def test_a_tick_charges_and_shows(tmp_path: Path) -> None:
    watcher = Listener()
    work, now = session(tmp_path, watcher, limit=60.0)
    with work.ledger.phase("search"):
        now[0] += 5
        work.tick("search", 0.25, "best 0.9")
        assert clock_seconds(read_account(work.run.ledger)) == {"search": 5.0}  # on the disk before the phase ends
    assert watcher.shown == [Progress("search", 0.25, 5.0, 60.0, "best 0.9")]


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_signal_ends_the_run_after_charging_and_says_how_to_go_on(tmp_path: Path, number: int, code: int) -> None:
    work, now = session(tmp_path, Silent(), stop=number)

    def unit() -> None:
        with work.ledger.phase("search"):
            now[0] += 0.5
            work.tick("search", 0.5, "")

    with pytest.raises(Interrupted, match="Give the same command again") as stopped:
        unit()
    assert stopped.value.exit_code == code
    assert str(tmp_path) in str(stopped.value)
    assert clock_seconds(read_account(work.run.ledger)) == {"search": 0.5}
