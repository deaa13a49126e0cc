"""Answers that the storage did not take: kept in files, handed in later, refused where they are damaged. Where a run's
processes meet, and that they meet there again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from nasimb.errors import InputError, ResumeError
from nasimb.phases.sharing import (
    FILE,
    check_storage,
    check_worker_storage,
    forget_storage,
    name_of_study,
    read_answers,
    remember_storage,
)
from nasimb.phases.work import ANSWERS, save_answer
from nasimb.rundir import RunDir
from nasimb.search.queue import Unit

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
