"""Workers on this machine: started with the search, started again when one dies, gone when the search is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_FAILURES, MOST_KILLS = 3, 20
"""After so many ends by an error of its own, or by a signal, a worker is not started again."""
LEAVE_SECONDS = 1.5
"""For the units that workers are at; then so long again to give them back, and then they are killed."""


@dataclass(slots=True)
class _Slot:
    """One worker's place: its process, and how often it failed and was killed."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    kills: int = 0

    @property
    def hopeless(self) -> bool:
        return self.failures >= MOST_FAILURES or self.kills >= MOST_KILLS


class LocalWorkers:
    """Processes of `nasimb worker RUN`, one a device.

    The storage's address goes to them through a pipe, never on a command line or in the environment. The pipe's end
    tells them that the search is gone, however it went.

    Args:
        count: how many.
        run: folder.
        address: of the storage; None: the journal of the run folder.
        threads: of each.
        devices: one after the other in turn, such as ("cuda:0", "cuda:1").
    """

    def __init__(
        self, count: int, run: Path, address: str | None, *, threads: int, devices: Sequence[str],
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._run, self._address, self._threads, self._devices, self._say = run, address, threads, devices, say
        self._slots = [_Slot(number) for number in range(count)]

    def tend(self, *, start: bool = True) -> list[int]:
        """Start whoever is not there, call it often; returns the processes that were found dead.

        Args:
            start: whether starting anybody is still worth it.
        """
        dead = []
        for slot in self._slots:
            if slot.process is not None:
                code = slot.process.poll()
                if code is None or code == 0 or slot.hopeless:
                    continue  # at work, or gone of its own will, or given up
                slot.failures += code > 0
                slot.kills += code < 0
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                again = "it is started again" if start and not slot.hopeless else "it is not started again"
                self._say(f"Worker {slot.number} died ({how}); {again}. See {self._log(slot)}.")
                dead.append(slot.process.pid)
                slot.process = None
            if start and not slot.hopeless:
                self._start(slot)
        return dead

    def processes(self) -> list[int]:
        """Of those that run."""
        return [slot.process.pid for slot in self._slots if slot.process is not None and slot.process.poll() is None]

    def leave(self) -> None:
        """Tell all of them that the search is over for them, and wait for a moment."""
        for slot in self._slots:
            if slot.process is not None and slot.process.stdin is not None:
                slot.process.stdin.close()
        self._wait_or(lambda process: process.terminate())
        self._wait_or(lambda process: process.kill())
        self._slots = []

    def _wait_or(self, end: Callable[[subprocess.Popen[bytes]], None]) -> None:
        """Wait for a moment in all, and end those that are there still."""
        deadline = time.monotonic() + LEAVE_SECONDS
        for slot in self._slots:
            if slot.process is not None:
                try:
                    slot.process.wait(max(deadline - time.monotonic(), 0.0))
                except subprocess.TimeoutExpired:
                    end(slot.process)

    def _log(self, slot: _Slot) -> Path:
        return self._run / "workers" / f"{slot.number}.log"

    def _start(self, slot: _Slot) -> None:
        log = self._log(slot)
        log.parent.mkdir(exist_ok=True)
        device = self._devices[slot.number % len(self._devices)]
        command = [sys.executable, "-m", "nasimb", "worker", str(self._run), "--device", device]
        command += ["--threads", str(self._threads), "--storage", "-", "--patience", "24h"]  # the pipe tells
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads)}
        environment.pop("NASIMB_STORAGE", None)
        with log.open("ab") as file:
            # A group of its own: Ctrl-C is for the search, which lets its workers finish what they are at.
            slot.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment, start_new_session=True
            )
        assert slot.process.stdin is not None
        slot.process.stdin.write(((self._address or "") + "\n").encode())
        slot.process.stdin.flush()
