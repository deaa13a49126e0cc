"""The ledger: what a run has spent, by phase, worker and kind of device, and what it may still hand out.

It adds up accumulated seconds on an injected clock, so that eight GPU-hours are tested in microseconds, and never
stores a start time: pauses and downtime are shown, not charged. A kill loses one beat, and before the first beat of a
process what that took to start.

```
RUN/ledger.jsonl  one line a beat: {"phase": "search", "worker": "main", "gpus": 0, "threads": 2, "seconds": 1.003,
                  "at": 1764000000.0, "check": "1a2b3c4d"}; appended, flushed to the disk, never changed
RUN/ledger.mark   the account that all lines so far add up to, from which a damaged ledger is restored
```

Start with `Ledger` to spend, and with `read_account` to see what a run has spent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nasimb.accounts import OWNER, Account, Charge, examine, line_of, mark_of, was_kept
from nasimb.budget import NOTHING, ONE_THREAD, Budget, Clock, Holding
from nasimb.durable import append_whole, replace_whole, replacing

__all__ = ["Ledger", "clock_seconds", "kind_seconds", "read_account"]

KINDS = ("wall", "gpu", "cpu")


class Ledger:
    """The account of one run, kept on disk line by line.

    Args:
        path: the file; created if missing, continued if there. None keeps the account in memory.
        clock: where time comes from.
        budget: what may be spent in all; None, or one of trials alone, for no time limit.
        holding: what this process holds while time passes.
        beat_seconds: time between two lines, within `beating` or while `beat` is called: what a kill can lose.
        warn: told what had to be repaired.
        begun: on the clock, from when on everything is charged; None: from the first phase on.

    Attributes:
        limit_seconds: on the clock, for the owner alone; None: no time limit.
        own: what the owner usually holds.
        resumed: whether this process goes on with what an earlier one was stopped in.

    Raises:
        BudgetError: the budget is in GPU time, and no GPU is held.
        ResumeError: the file is damaged beyond repair.

    Example:
        >>> now = [0.0]  # a clock that stands still unless it is moved
        >>> ledger = Ledger(None, lambda: now[0], Budget.parse("10min"))
        >>> with ledger.phase("supernet"):
        ...     now[0] += 240
        >>> with ledger.phase("search"):
        ...     now[0] += 60
        >>> ledger.by_phase()
        {'supernet': 240.0, 'search': 60.0}
        >>> ledger.remaining()
        300.0
    """

    def __init__(
        self,
        path: Path | None,
        clock: Clock,
        budget: Budget | None = None,
        holding: Holding = ONE_THREAD,
        *,
        beat_seconds: float = 1.0,
        warn: Callable[[str], None] = lambda line: None,
        begun: float | None = None,
    ) -> None:
        self.limit_seconds = None if budget is None else budget.limit_seconds(holding)
        self._limits = {} if budget is None else {kind: getattr(budget, f"{kind}_seconds") for kind in KINDS}
        self._clock, self._beat_seconds, self._path = clock, beat_seconds, path
        self.own = self._holding = holding
        self._account: Account = {}
        self._lines = 0
        if path is not None and was_kept(path):
            found = examine(path)
            self._account, self._lines = found.account, found.lines
            if found.repaired is not None:
                warn(found.repaired)
                self._rewrite(found.began)
        self._before = clock_seconds(self._account)
        self.resumed = bool(self._account)
        self._charged: dict[str, float] = {}
        self._totals = dict.fromkeys(KINDS, 0.0)
        for charge, seconds in self._account.items():
            self._count(charge, seconds)
        self._grants: dict[str, tuple[Holding, float]] = {}
        self._aside = {"gpu": 0.0, "cpu": 0.0}
        self._phase: str | None = None
        self._since = begun
        self._lock = threading.RLock()

    @contextmanager
    def phase(self, name: str, holding: Holding | None = None) -> Iterator[None]:
        """Charge everything inside to `name`, and what came between it and the phase before; phases do not nest.

        Args:
            holding: what this process holds meanwhile, where it is not what it usually does.
        """
        assert self._phase is None, f"phase {self._phase} is still open"
        with self._lock:
            self._since = self._clock() if self._since is None else self._since
            self._phase, self._holding = name, holding or self.own
        try:
            yield
        finally:
            with self._lock:
                self._write()
                self._phase, self._holding = None, self.own

    def hold(self, holding: Holding) -> None:
        """From now on, until the phase ends, this process holds so much."""
        with self._lock:
            if self._phase is not None:
                self._write()
            self._holding = holding

    def beat(self) -> None:
        """Write down the time since the last line if a beat has passed; call it after every unit of work."""
        with self._lock:
            if self._phase is not None and self._running_seconds() >= self._beat_seconds:
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

    def charge(self, phase: str, held: Iterable[tuple[str, Holding, float]]) -> None:
        """Charge what other processes have held: worker, devices, seconds; all with one write."""
        with self._lock:
            entries = [
                (Charge(phase, worker, holding.gpus, holding.threads), seconds)
                for worker, holding, seconds in held
                if seconds > 0
            ]
            assert all(charge.worker != OWNER for charge, _ in entries)
            if entries:
                self._append(entries)

    def charged(self, worker: str) -> float:
        """Seconds charged to a worker so far, over all phases."""
        with self._lock:
            return self._charged.get(worker, 0.0)

    def grant(self, worker: str, holding: Holding, seconds: float, *, keep_seconds: float = 0.0) -> float:
        """Let a worker hold its devices for up to `seconds` more; what it is granted is nobody else's to spend.

        Args:
            seconds: wanted from now on, that is beyond what was charged to it.
            keep_seconds: that must be left to the owner of the run.

        Returns:
            Seconds it may hold them in all, those charged to it included: less than wanted where less is left, and
            never less than it was granted before.

        >>> ledger = Ledger(None, lambda: 0.0, Budget.parse("10cpu-min"), Holding(threads=1))
        >>> ledger.grant("first", Holding(threads=4), seconds=100)
        100.0
        >>> ledger.grant("second", Holding(threads=4), seconds=100)  # of 600 s, 400 are the first one's
        50.0
        """
        with self._lock:
            charged, before = self.charged(worker), self._grants.get(worker, (holding, 0.0))[1]
            self.release(worker)
            for kind in ("gpu", "cpu"):
                limit, rate = self._limits.get(kind), _rate(holding, kind)
                if limit is not None and rate:
                    kept = keep_seconds * _rate(self.own, kind) + self._aside[kind]
                    seconds = min(seconds, (limit - self.spent_of(kind) - kept) / rate)
            granted = max(before, charged + max(seconds, 0.0))
            self._grants[worker] = (holding, granted)
            self._set_aside(worker, 1)
            return granted

    def release(self, worker: str) -> None:
        """The worker is gone: what was granted to it and not used is there for others again."""
        with self._lock:
            self._set_aside(worker, -1)
            self._grants.pop(worker, None)

    def spent(self, phase: str | None = None) -> float:
        """Seconds on the clock so far, of one phase or in all, the running beat included."""
        with self._lock:
            return sum(seconds for name, seconds in self.by_phase().items() if phase in (None, name))

    def since_opening(self, phase: str) -> float:
        """Seconds on the clock that this process has charged to a phase."""
        return self.spent(phase) - self._before.get(phase, 0.0)

    def by_phase(self) -> dict[str, float]:
        """Seconds on the clock of every phase so far, in order of first charge."""
        with self._lock:
            found = clock_seconds(self._account)
            if self._phase is not None:
                found[self._phase] = found.get(self._phase, 0.0) + self._running_seconds()
            return found

    def spent_of(self, kind: str) -> float:
        """Seconds of one kind in all, the running beat included: "wall", "gpu" or "cpu" (devices held x seconds)."""
        with self._lock:
            running = 0.0 if self._phase is None else self._running_seconds() * _rate(self._holding, kind)
            return running + self._totals[kind]

    def account(self) -> Account:
        """Seconds by phase, worker and devices held, up to the last line."""
        with self._lock:
            return dict(self._account)

    def remaining(self, others: Holding = NOTHING, *, keep_seconds: float = 0.0) -> float:
        """Seconds on the clock that are left while this process and `others` hold what they hold.

        Args:
            keep_seconds: that must be left to the owner of the run when they are over, holding what it usually does.

        Returns:
            Infinite without a time limit, negative after an overrun.
        """
        with self._lock:
            holding = (self.own if self._phase is None else self._holding) + others
            return self._left(holding, keep_seconds)

    def used_seconds(self) -> float:
        """How much of `limit_seconds` is gone; without a limit, the seconds on the clock."""
        with self._lock:
            return self.spent() if self.limit_seconds is None else self.limit_seconds - self._left(self.own, 0.0)

    def _left(self, holding: Holding, keep_seconds: float) -> float:
        left = float("inf")
        for kind, limit in self._limits.items():
            rate = _rate(holding, kind)
            if limit is not None and rate:
                kept = keep_seconds * _rate(self.own, kind)
                left = min(left, (limit - self.spent_of(kind) - kept) / rate)
        return left

    def _set_aside(self, worker: str, sign: int) -> None:
        """Add to what is set aside, or take off it, what the worker was granted and has not used."""
        holding, granted = self._grants.get(worker, (NOTHING, 0.0))
        for kind in self._aside:
            self._aside[kind] += sign * max(granted - self.charged(worker), 0.0) * _rate(holding, kind)

    def _running_seconds(self) -> float:
        """Since the last line of an open phase."""
        assert self._since is not None
        return self._clock() - self._since

    def _write(self) -> None:
        assert self._phase is not None
        seconds = self._running_seconds()
        self._append([(Charge(self._phase, OWNER, self._holding.gpus, self._holding.threads), seconds)])
        assert self._since is not None
        self._since += seconds

    def _append(self, entries: Sequence[tuple[Charge, float]]) -> None:
        if self._path is not None:
            at = time.time()
            append_whole(self._path, "".join(line_of(charge, seconds, at) for charge, seconds in entries).encode())
            self._lines += len(entries)
        for charge, seconds in entries:
            self._set_aside(charge.worker, -1)
            self._count(charge, seconds)
            self._account[charge] = self._account.get(charge, 0.0) + seconds
            self._set_aside(charge.worker, 1)
        if self._path is not None:
            # Where the disk is full between the two: the line is there, and a mark without it is as good.
            with suppress(OSError):
                self._mark()

    def _count(self, charge: Charge, seconds: float) -> None:
        """Sums of the account, so that nobody adds it up anew."""
        self._charged[charge.worker] = self._charged.get(charge.worker, 0.0) + seconds
        for kind in KINDS:
            if kind != "wall" or charge.worker == OWNER:
                self._totals[kind] += seconds * _rate(Holding(charge.gpus, charge.threads), kind)

    def _mark(self) -> None:
        """After the line, never before: a mark that lacks the last line is as good as one that has it."""
        assert self._path is not None
        with replacing(self._path.with_suffix(".mark"), flush=False) as part:
            part.write_text(mark_of(self._account, self._lines), encoding="utf-8")

    def _rewrite(self, began: float | None) -> None:
        """The account in as few lines as it has entries, in place of a damaged file.

        Args:
            began: when the run did, which the first line goes on to tell; None where no line tells.
        """
        assert self._path is not None
        lines, now = [], time.time()
        for charge, seconds in self._account.items():
            at = now
            if charge.worker == OWNER and began is not None:
                at, began = began + seconds, None
            lines.append(line_of(charge, seconds, at))
        replace_whole(self._path, "".join(lines).encode())
        self._lines = len(self._account)
        self._mark()


def clock_seconds(account: Mapping[Charge, float]) -> dict[str, float]:
    """Seconds on the clock of every phase: those of the process that owns the run folder.

    Example:
        >>> by_phase = clock_seconds(read_account(Path("runs/digits/ledger.jsonl")))
        >>> sorted(by_phase)
        ['evaluate', 'head', 'prepare', 'search', 'supernet']
    """
    found: dict[str, float] = {}
    for charge, seconds in account.items():
        if charge.worker == OWNER:
            found[charge.phase] = found.get(charge.phase, 0.0) + seconds
    return found


def kind_seconds(account: Mapping[Charge, float], kind: str) -> float:
    """Seconds of one kind: "wall" of the owner alone, "gpu" and "cpu" are devices held x seconds of everybody.

    Example:
        >>> now = [0.0]
        >>> ledger = Ledger(None, lambda: now[0], holding=Holding(threads=4))
        >>> with ledger.phase("search"):
        ...     now[0] += 10
        >>> kind_seconds(ledger.account(), "wall"), kind_seconds(ledger.account(), "cpu")
        (10.0, 40.0)
    """
    if kind == "wall":
        return sum(clock_seconds(account).values())
    return sum(seconds * _rate(Holding(charge.gpus, charge.threads), kind) for charge, seconds in account.items())


def read_account(path: Path) -> Account:
    """The account in a ledger's file, without touching it; a torn last line is left out.

    Raises:
        ResumeError: it is damaged beyond repair.

    Example:
        >>> account = read_account(Path("runs/digits/ledger.jsonl"))
        >>> {charge.worker for charge in account}, {charge.gpus for charge in account}
        ({'main'}, {0})
        >>> round(kind_seconds(account, "wall"), 6) == round(sum(clock_seconds(account).values()), 6)
        True
    """
    return examine(path).account if was_kept(path) else {}


def _rate(holding: Holding, kind: str) -> int:
    """Seconds of a kind in one second on the clock."""
    return {"wall": 1, "gpu": holding.gpus, "cpu": holding.threads}[kind]
