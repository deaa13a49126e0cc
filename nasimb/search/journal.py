"""Optuna's journal file, written once a batch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, TrialState

from nasimb.durable import append_whole
from nasimb.errors import ResumeError

COMMITTED = "told"
"""Name of the study attribute that says at the end of every batch how many trials were told by then."""
CHECK = "check"
"""Name of the one after it, which ends the batch: the CRC-32 of all of the file before its digits."""
SHOWN = "shown"
"""Name of the one that ends what stands behind the last batch for readers alone: how many trials they see."""
OF_STUDY = (JournalOperation.CREATE_STUDY, JournalOperation.SET_STUDY_SYSTEM_ATTR)
"""That the study is there, what it maximises, and what its metrics are called."""
_CHECKED = re.compile(rb'"user_attr":\{"check":(\d+)\}\}\n$')


class DamagedJournal(ResumeError):
    """A journal that does not say what was written to it."""


class BatchJournal(BaseJournalBackend):
    """Keeps the logs of a batch in memory until `commit` appends them to the file, with one write and one fsync.

    Logs behind the last whole batch of a file are cut off on opening: a batch that a kill tore is asked for again, and
    what `show` wrote was for readers alone.
    The file is in Optuna's own format. The run folder belongs to one process, so that it needs no lock.

    Args:
        warn: told where a torn batch was cut off.

    Raises:
        DamagedJournal: a batch does not say what was written.
    """

    def __init__(self, file: Path, warn: Callable[[str], None] = lambda line: None) -> None:
        self._file = file
        self._pending: list[str] = []
        self._first = 0
        lines, self._crc = _committed(file, warn) if file.exists() else ([], 0)
        self._logs = [json.loads(line) for line in lines]

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Logs from a number on; each is handed out once, to the one storage that reads them."""
        del self._logs[: log_number_from - self._first]
        self._first = log_number_from
        return tuple(self._logs)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Keep logs for the next commit."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self._pending += lines
        self._logs += [json.loads(line) for line in lines]

    def commit(self) -> None:
        """Write what is kept; the last log must be the attribute `COMMITTED`.

        Raises:
            DiskFullError, OSError: it failed; the file is as it was before.
        """
        told, mark, _ = self._pending[-1].rpartition(f'{{"{COMMITTED}":')
        assert mark
        data = ("".join(line + "\n" for line in self._pending) + f'{told}{{"{CHECK}":').encode()
        crc = crc32(data, self._crc)
        ending = f"{crc}}}}}\n".encode()
        append_whole(self._file, data + ending)
        self._crc = crc32(ending, crc)
        self._pending.clear()

    def forget(self) -> None:
        """Drop what is kept of trials; readers of the study have seen it, the file will not."""
        self._pending = [line for line in self._pending if json.loads(line)["op_code"] in OF_STUDY]

    def show(self) -> None:
        """Write what is kept for readers of the file alone; the last log must be the attribute `SHOWN`, and no other
        follows: whoever opens the file next cuts it off.

        Raises:
            DiskFullError, OSError: it failed; the file is as it was before.
        """
        assert _is_shown((self._pending[-1] + "\n").encode())
        append_whole(self._file, "".join(line + "\n" for line in self._pending).encode())
        self._pending.clear()


class QueuelessStorage(JournalStorage):
    """A study in which no trial ever waits in a queue: every ask would look through all trials for one."""

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """As JournalStorage."""
        return [] if states == (TrialState.WAITING,) else super().get_all_trials(study_id, deepcopy, states)


def _committed(file: Path, warn: Callable[[str], None]) -> tuple[list[bytes], int]:
    """The lines up to the last that ends a batch, and their CRC-32; what comes after them is removed."""
    lines = file.read_bytes().splitlines(keepends=True)
    torn, shown = 0, bool(lines) and _is_shown(lines[-1])
    while lines and _CHECKED.search(lines[-1]) is None:
        torn += len(lines.pop())
    crc = 0
    for number, line in enumerate(lines, start=1):
        mark = _CHECKED.search(line)
        if mark is not None and int(mark[1]) != crc32(line[: mark.start(1)], crc):
            raise DamagedJournal(
                f"{file} must say what the run wrote", got=f"a batch that ends in line {number}", do="Restore it."
            )
        crc = crc32(line, crc)
    if torn and not shown:
        warn(f"{file}: the last batch was torn, by a kill or a full disk, and is asked for again.")
    if torn:
        os.truncate(file, sum(map(len, lines)))
    return lines, crc


def _is_shown(line: bytes) -> bool:
    return re.search(rb'"user_attr":\{"' + SHOWN.encode() + rb'":\d+\}\}\n$', line) is not None
