"""Answers that the storage did not take: kept in files, handed in later, refused where they are damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from nasimb.errors import ResumeError
from nasimb.phases.sharing import read_answers
from nasimb.phases.work import ANSWERS, save_answer
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
