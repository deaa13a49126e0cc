"""Answers that the storage did not take: kept in files, handed in later, refused where they are damaged. Where a run's
processes meet, and that they meet there again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nasimb.errors import InputError, ResumeError
from nasimb.phases.sharing import (
    FILE,
    Exchange,
    Sharing,
    check_storage,
    check_worker_storage,
    forget_storage,
    name_of_study,
    name_of_worker,
    read_answers,
    remember_storage,
)
from nasimb.phases.work import ANSWERS, save_answer
from nasimb.rundir import RunDir
from nasimb.search.fleet import Fleet
from nasimb.search.queue import Beat, Unit, WorkQueue
from nasimb.search.storage import Reaching

UNIT = Unit(7, {"task": "score", "proposals": [1]}, TrialState.RUNNING)


class Queue:
    """What `read_answers` asks of a queue."""

    def __init__(self, *units: Unit) -> None:
        self._units, self.answered = units, dict[int, Any]()

    def units(self) -> list[Unit]:
        return list(self._units)

    def answer(self, unit: Unit, answer: Any) -> bool:
        self.answered[unit.key] = answer
        return True


def test_an_answer_is_kept_until_it_is_handed_in(tmp_path: Path) -> None:
    file = save_answer(tmp_path, UNIT, {"trials": [0.1]})
    assert list((tmp_path / ANSWERS).iterdir()) == [file]
    queue = Queue(UNIT)
    read_answers(tmp_path, queue)  # type: ignore[arg-type]
    assert queue.answered == {7: {"trials": [0.1]}}
    assert not file.exists()


@pytest.mark.parametrize(("old", "new"), [(b"0.1", b"0.9"), (b"0.1", b"0.1]"), (b"check", b"chack"), (b"7", b"8")])
def test_a_damaged_answer_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    file = save_answer(tmp_path, UNIT, {"trials": [0.1]})
    file.write_bytes(file.read_bytes().replace(old, new, 1))
    queue = Queue(UNIT)
    with pytest.raises(ResumeError, match=r"7\.json must be an answer.*Delete it"):
        read_answers(tmp_path, queue)  # type: ignore[arg-type]
    assert queue.answered == {}


class Locals:
    """In place of LocalWorkers: processes by number."""

    def __init__(self) -> None:
        self.started: list[bool] = []
        self.alive = [7]

    def tend(self, *, start: bool = True) -> list[int]:
        self.started.append(start)
        return []

    def processes(self) -> list[int]:
        return self.alive


def test_the_owner_pays_for_its_devices_until_its_unit_is_done(workshop: Callable[..., Any]) -> None:
    shop = workshop()
    exchange = Exchange(shop.session, Sharing(workers=1), threads=1, devices=("cpu",))
    queue = WorkQueue(Reaching(InMemoryStorage(), None), "run")
    fleet = Fleet(queue, shop.session.ledger, shop.clock)
    exchange._fleet, exchange._workers = fleet, Locals()  # type: ignore[assignment]
    with shop.session.ledger.phase("search"):
        assert exchange.tend(100.0)  # nobody is heard yet
        queue.beat(name_of_worker(7) + "ab", Beat(1, 0.0, 0, 1, "here"))
        fleet.hear()
        assert exchange.tend(100.0, busy=True)
        shop.clock.now += 3
        assert shop.session.ledger.spent_of("cpu") == 3 * shop.session.ledger.own.threads
        assert not exchange.tend(100.0)
        shop.clock.now += 5
        assert shop.session.ledger.spent_of("cpu") == 3 * shop.session.ledger.own.threads
        queue.beat(name_of_worker(7) + "ab", Beat(2, 2.0, 0, 1, "here", left=True))
        queue.beat("another host-1-", Beat(1, 0.0, 0, 1, "there"))
        fleet.hear()
        assert exchange.tend(100.0)  # those elsewhere do not use the devices here


def test_no_worker_is_started_for_the_last_seconds(workshop: Callable[..., Any]) -> None:
    shop = workshop()
    exchange = Exchange(shop.session, Sharing(workers=1), threads=1, devices=("cpu",))
    exchange._fleet = Fleet(WorkQueue(Reaching(InMemoryStorage(), None), "run"), shop.session.ledger, shop.clock)
    exchange._workers = workers = Locals()  # type: ignore[assignment]
    workers.alive = []
    for left in (100.0, 3.0, 2.0):
        assert exchange.tend(left)
    assert workers.started == [True, False, False]
    assert sum("No worker is started: 3 s are left" in line for line in shop.watcher.lines) == 1
    assert len(shop.watcher.lines) == 1


ADDRESS = "postgresql+psycopg://me:secret@host/db"


def test_a_run_goes_on_where_its_processes_met(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    name = name_of_study(run, create=True)
    for address in (None, ADDRESS):
        check_storage(run, address)  # nobody has met yet
    remember_storage(run, ADDRESS)
    check_storage(run, ADDRESS)
    check_storage(run, ADDRESS.replace("secret", "another"))
    for address in (None, "grpc://host:1"):
        with pytest.raises(ResumeError, match=r"go on where its processes met.*Give the command with --storage") as no:
            check_storage(run, address)
        assert "secret" not in str(no.value)
    assert "secret" not in (tmp_path / FILE).read_text()
    assert name_of_study(run) == name
    forget_storage(run)
    check_storage(run, None)
    assert name_of_study(run) == name


def test_a_run_that_met_in_its_journal_is_not_continued_elsewhere(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    name_of_study(run, create=True)
    remember_storage(run, None)
    check_storage(run, None)
    with pytest.raises(ResumeError, match="without --storage"):
        check_storage(run, ADDRESS)


def test_a_worker_does_not_wait_where_nobody_meets(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    name_of_study(run, create=True)
    remember_storage(run, ADDRESS)
    check_worker_storage(run, "postgresql+psycopg://me@the-same-by-another-name/db")
    with pytest.raises(InputError, match=r"Give --storage postgresql\+psycopg://.*host/db") as no:
        check_worker_storage(run, None)
    assert "secret" not in str(no.value)
