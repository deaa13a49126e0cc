"""Budgets, and the ledger that keeps them.

A `Budget` is what the user typed ("8gpu-h", "30min", "200trials", or several: the first reached stops). A `Ledger`
adds up what was spent, phase by phase, on an injected clock, so that eight GPU-hours are tested in microseconds.
It stores accumulated spend and never a start time: pauses and downtime are not charged, a crash loses one beat.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasimb.errors import BudgetError, ResumeError

Clock = Callable[[], float]
"""Seconds from any fixed origin, never going back: `time.monotonic`, or a list of numbers in a test."""

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_UNITS = {
    **{unit: ("wall", seconds) for unit, seconds in _SECONDS.items()},
    **{f"gpu-{unit}": ("gpu", seconds) for unit, seconds in _SECONDS.items()},
    **{f"cpu-{unit}": ("cpu", seconds) for unit, seconds in _SECONDS.items()},
    "trials": ("trials", 1.0),
}
_EXAMPLE = "Type a number and a unit: 8gpu-h, 2cpu-h, 30min, 2h or 200trials; several are joined by commas."


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may spend; `None` means no limit of that kind, and at least one limit is set.

    Attributes:
        text: as typed.
        wall_seconds: seconds on the clock.
        gpu_seconds: GPUs held x seconds.
        cpu_seconds: CPU threads used x seconds.
        trials: finished trials; a repeat answered from the cache does not count.
    """

    text: str
    wall_seconds: float | None = None
    gpu_seconds: float | None = None
    cpu_seconds: float | None = None
    trials: int | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "8gpu-h" or "30min,200trials".

        Raises:
            BudgetError: no unit, an unknown unit, a number that is not positive, or the same kind twice.

        >>> Budget.parse("30min,200trials").wall_seconds
        1800.0
        """
        limits: dict[str, float] = {}
        for part in re.split(r"[,\s]+", text.strip()):
            kind, amount = _parse_limit(part, text)
            if kind in limits:
                raise BudgetError("a budget may limit each kind once", got=repr(text), do=f"Keep one {kind} limit.")
            limits[kind] = amount
        trials = limits.get("trials")
        if trials is not None and trials != int(trials):
            raise BudgetError("trials must be a whole number", got=repr(text), do="Type for example 200trials.")
        return cls(
            text=text.strip(),
            wall_seconds=limits.get("wall"),
            gpu_seconds=limits.get("gpu"),
            cpu_seconds=limits.get("cpu"),
            trials=None if trials is None else int(trials),
        )

    def limit_seconds(self, *, gpus: int, threads: int) -> float | None:
        """The wall-clock seconds this budget lasts on `gpus` GPUs and `threads` CPU threads; None: no time limit.

        Raises:
            BudgetError: GPU time is asked for where there is no GPU.
        """
        if self.gpu_seconds is not None and gpus == 0:
            hours = self.gpu_seconds / 3600
            raise BudgetError(
                "a budget in GPU time needs a GPU",
                got=f"{self.text!r} on a machine without one",
                do=f"Type the same in CPU time or on the clock: --budget {hours * threads:g}cpu-h or {hours:g}h.",
            )
        limits = [
            self.wall_seconds,
            None if self.gpu_seconds is None else self.gpu_seconds / gpus,
            None if self.cpu_seconds is None else self.cpu_seconds / threads,
        ]
        return min((limit for limit in limits if limit is not None), default=None)


def _parse_limit(part: str, text: str) -> tuple[str, float]:
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-zA-Z-]*)", part)
    if match is None:
        raise BudgetError("a budget must be a number with a unit", got=repr(text), do=_EXAMPLE)
    number, unit = float(match[1]), match[2].lower()
    if unit == "trial":
        unit = "trials"
    if not unit:
        raise BudgetError("a budget must have a unit", got=repr(text), do=_EXAMPLE)
    if unit not in _UNITS:
        raise BudgetError(f"the unit of a budget must be one of {', '.join(_UNITS)}", got=repr(unit), do=_EXAMPLE)
    if number <= 0:
        raise BudgetError("a budget must be positive", got=repr(text), do=_EXAMPLE)
    kind, seconds = _UNITS[unit]
    return kind, number * seconds


class Ledger:
    """The account of one run: seconds by phase, kept on disk line by line.

    One line a beat, `{"phase": "search", "seconds": 1.003}`, appended and flushed to the disk. A last line torn by
    a crash is dropped on opening; any other damage is an error.

    Args:
        path: the file; created if missing, continued if there. None keeps the account in memory.
        clock: where time comes from.
        limit_seconds: what may be spent in all; None for no time limit.
        beat_seconds: time between two lines, within `beating` or while `beat` is called: what a kill can lose.
    """

    def __init__(
        self, path: Path | None, clock: Clock, limit_seconds: float | None = None, beat_seconds: float = 1.0
    ) -> None:
        self.limit_seconds = limit_seconds
        self._clock = clock
        self._beat_seconds = beat_seconds
        self._path = path
        self._saved: dict[str, float] = {}
        if path is not None and path.exists():
            # Only the line being written when the power went can lack its end; every earlier one was flushed whole.
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
            self._saved = read_account(path)
        self._phase: str | None = None
        self._since = 0.0
        self._lock = threading.RLock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge everything inside to `name`; phases do not nest."""
        assert self._phase is None, f"phase {self._phase} is still open"
        with self._lock:
            self._phase, self._since = name, self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._write()
                self._phase = None

    def beat(self) -> None:
        """Write down the time since the last line if a beat has passed; call it after every unit of work."""
        with self._lock:
            if self._phase is not None and self._clock() - self._since >= self._beat_seconds:
                self._write()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Beat from a thread besides, so that a kill in a long unit of work loses no more than one in a short one."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(self._beat_seconds):
                with suppress(OSError):  # a full disk is met, and reported, by whoever writes next
                    self.beat()

        thread = threading.Thread(target=beat, name="ledger", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def spent(self, phase: str | None = None) -> float:
        """Seconds charged so far, to one phase or in all, the running beat included."""
        with self._lock:
            running = self._clock() - self._since if self._phase is not None else 0.0
            if phase is None:
                return sum(self._saved.values()) + running
            return self._saved.get(phase, 0.0) + (running if phase == self._phase else 0.0)

    def by_phase(self) -> dict[str, float]:
        """Seconds charged to every phase so far, in order of first charge."""
        phases = [*self._saved, *([self._phase] if self._phase and self._phase not in self._saved else [])]
        return {phase: self.spent(phase) for phase in phases}

    def remaining(self) -> float:
        """Seconds left; infinite without a time limit, negative after an overrun."""
        return float("inf") if self.limit_seconds is None else self.limit_seconds - self.spent()

    def _write(self) -> None:
        assert self._phase is not None
        now = self._clock()
        seconds, self._since = now - self._since, now
        self._saved[self._phase] = self._saved.get(self._phase, 0.0) + seconds
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"phase": self._phase, "seconds": round(seconds, 6)}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_account(path: Path) -> dict[str, float]:
    """Seconds by phase in a ledger's file, without touching it; a torn last line is left out.

    Raises:
        ResumeError: a complete line is no charge.
    """
    if not path.exists():
        return {}
    account: dict[str, float] = {}
    complete, _, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    for number, line in enumerate(complete.splitlines(), start=1):
        row = _read_line(line)
        if row is None:
            raise ResumeError(
                f"every line of {path} must be a charge", got=f"line {number}: {line[:60]!r}", do="Restore the file."
            )
        account[row["phase"]] = account.get(row["phase"], 0.0) + row["seconds"]
    return account


def _read_line(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        ok = isinstance(row["phase"], str) and float(row["seconds"]) >= 0
    except (ValueError, TypeError, KeyError):
        return None
    return row if ok else None
