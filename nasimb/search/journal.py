"""Optuna's journal file, written once a batch."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

COMMITTED = "told"
"""Name of the study attribute that ends every batch in the file: how many trials were told by then."""


class BatchJournal(BaseJournalBackend):
    """Keeps the logs of a batch in memory until `commit` appends them to the file, with one write and one fsync.

    Logs behind the last whole batch of a file are cut off on opening: a batch that a kill tore is asked for again.
    The file is in Optuna's own format. The run folder belongs to one process, so that it needs no lock.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._pending: list[str] = []
        self._first = 0
        self._logs = [json.loads(line) for line in _committed_lines(file)] if file.exists() else []

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
        """Write what is kept; the last log must be the attribute `COMMITTED`."""
        assert f'"{COMMITTED}":' in self._pending[-1]
        with self._file.open("ab") as file:
            file.write("".join(line + "\n" for line in self._pending).encode())
            file.flush()
            os.fsync(file.fileno())
        self._pending.clear()


class QueuelessStorage(JournalStorage):
    """A study in which no trial ever waits in a queue: every ask would look through all trials for one."""

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """As JournalStorage."""
        return [] if states == (TrialState.WAITING,) else super().get_all_trials(study_id, deepcopy, states)


def _committed_lines(file: Path) -> list[bytes]:
    """The lines up to the last that ends a batch; what comes after them is removed."""
    lines = file.read_bytes().splitlines(keepends=True)
    mark = f'"user_attr":{{"{COMMITTED}":'.encode()
    while lines and not (mark in lines[-1] and lines[-1].endswith(b"\n")):
        lines.pop()
    os.truncate(file, sum(map(len, lines)))
    return lines
