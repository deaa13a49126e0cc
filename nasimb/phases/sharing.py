"""How a run is shared: where its processes meet, who starts them, and what the owner needs to lead them."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nasimb import seal
from nasimb.budget import NOTHING
from nasimb.errors import InputError, ResumeError
from nasimb.phases.spawn import LocalWorkers
from nasimb.phases.work import ANSWERS
from nasimb.rundir import RunDir
from nasimb.search.fleet import RHYTHM, Fleet
from nasimb.search.queue import PREPARING, WorkQueue
from nasimb.search.storage import JOURNAL, PATIENCE_SECONDS, Reaching, StorageError, open_storage, short_patience
from nasimb.secrets import address_without_password
from nasimb.session import Session

FILE = "exchange.json"
STUDY, STORAGE = "study", "storage"
STARTING_SECONDS = 10.0
"""What a worker takes until it has loaded torch, the images and the super-network, roughly."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """What the user asked for.

    Attributes:
        workers: processes to start on this machine; 0: this one searches by itself, and with whoever joins.
        address: of the storage; None: a journal in the run folder.
    """

    workers: int = 0
    address: str | None = None


ALONE = Sharing()


class Exchange:
    """The owner's connection to whoever joins: opened where workers or a storage are asked for, or when one comes.

    Args:
        sharing: what was asked for.
        threads: of this process, to be shared among local workers.
        devices: for local workers, in turn.

    Attributes:
        keep_seconds: that must be left when the search ends, whatever the storage does.
    """

    def __init__(self, session: Session, sharing: Sharing, *, threads: int, devices: Sequence[str]) -> None:
        self._session, self._sharing = session, sharing
        self._threads, self._devices = threads, devices
        self._fleet: Fleet | None = None
        self._workers: LocalWorkers | None = None
        self._looked_at = float("-inf")
        self._own_work, self._told = True, False
        self.keep_seconds = 0.0

    def open(self) -> None:
        """Name the run, so that workers can find it; an address that leads nowhere is refused before time is spent.

        Raises:
            InputError, StorageError: the storage cannot be opened.
            ResumeError: the run began on another one, where answers may wait.
        """
        name_of_study(self._session.run, create=True)
        check_storage(self._session.run, self._sharing.address)
        if self._sharing.workers or self._sharing.address is not None:
            self._connect(patience_seconds=10.0).announce(PREPARING)

    def join(self) -> Fleet | None:
        """The fleet, once there is anybody to share with; starts local workers."""
        if self._fleet is None:
            now = self._session.clock()
            if now - self._looked_at >= RHYTHM.beat_seconds:
                self._looked_at = now
                if (self._session.run.path / JOURNAL).exists():
                    self._connect()
        if self._sharing.workers and self._workers is None:
            self._workers = LocalWorkers(
                self._sharing.workers, self._session.run.path, self._sharing.address,
                threads=max(self._threads // self._sharing.workers, 1), devices=self._devices,
                say=self._session.watcher.say,
            )  # fmt: skip
        return self._fleet

    def tend(self, left_seconds: float, *, busy: bool = False) -> bool:
        """Start local workers that are not there; call it often.

        While local workers have the owner's devices, it holds none, and scores nothing itself; before the first is
        heard, and when none is left, it does.

        Args:
            left_seconds: of the search; where they are hardly more than a worker needs to start, none is started.
            busy: whether the owner has a unit under way, for which it holds its devices to the end.

        Returns:
            Whether the owner is to score candidates itself.
        """
        own_work = True
        if self._workers is not None:
            assert self._fleet is not None
            start = left_seconds > STARTING_SECONDS
            if not start and not self._told and not self._workers.processes():
                self._told = True
                left = f"{max(left_seconds, 0.0):.0f} s are left for the search"
                self._session.watcher.say(f"No worker is started: {left}, and to start takes as long.")
            for process in self._workers.tend(start=start):
                self._fleet.bury(name_of_worker(process))
            heard = any(self._fleet.hears(name_of_worker(process)) for process in self._workers.processes())
            own_work = busy or not heard
            if own_work != self._own_work:
                ledger = self._session.ledger
                ledger.hold(ledger.own if own_work else NOTHING)
        self._own_work = own_work
        return own_work

    def settle(self) -> None:
        """At the end of the run: charge what workers held until they left. More budget may come on another storage."""
        forget_storage(self._session.run)
        if self._fleet is not None:
            try:
                with short_patience(self._fleet.queue.reaching, 2.0):
                    self._fleet.hear()
            except StorageError as error:
                self._session.watcher.say(f"What workers held in the end is not charged: {error}")

    def leave(self) -> None:
        """Local workers go, after the unit that they are at if that is soon done."""
        if self._workers is not None:
            self._workers.leave()

    def _connect(self, patience_seconds: float = PATIENCE_SECONDS) -> Fleet:
        session, address = self._session, self._sharing.address
        remember_storage(session.run, address)
        storage = open_storage(address, session.run.path)
        reaching = Reaching(storage, address, patience_seconds=patience_seconds, between=self._waiting)
        queue = WorkQueue(reaching, name_of_study(session.run))
        reaching.patience_seconds = PATIENCE_SECONDS
        read_answers(session.run.path, queue)
        self._fleet = Fleet(queue, session.ledger, session.clock, say=session.watcher.say)
        return self._fleet

    def _waiting(self) -> None:
        """While the storage is away: time goes on, signals are obeyed, and the budget is kept."""
        self._session.tick("search", 0.0, "the storage is away; trying again")
        holding = NOTHING if self._fleet is None else self._fleet.holding
        if self._session.ledger.remaining(holding, keep_seconds=self.keep_seconds) <= 0:
            raise StorageError(
                "the storage must be back before the search's time ends", got="no answer", do="Look after it."
            )


def name_of_worker(process: int) -> str:
    """What the name of a worker begins with; more follows, since numbers of processes come again."""
    return f"{socket.gethostname()}-{process}-"


def name_of_study(run: RunDir, *, create: bool = False) -> str:
    """Of the run in a storage that many runs may share.

    Args:
        create: draw one where there is none yet.

    Raises:
        InputError: there is none: the run has not begun.
    """
    found = run.read_json(FILE)
    if found is None and create:
        found = {STUDY: f"nasimb-{run.path.resolve().name}-{uuid.uuid4().hex[:8]}"}
        run.write_json(FILE, found)
    if found is None:
        raise InputError(
            "a run must have begun before workers join it", got=str(run.path), do="Start the search first."
        )
    name = found.get(STUDY)
    if not isinstance(name, str):
        raise ResumeError(f"{run.path / FILE} must name a study", got=found, do="Restore it, or start a new run.")
    return name


def check_storage(run: RunDir, address: str | None) -> None:
    """Refuse to go on beside a storage in which work may be out, or answered.

    Raises:
        ResumeError: the run began on another storage.
    """
    found = run.read_json(FILE) or {}
    if STORAGE in found and found[STORAGE] != _shown(address):
        before = "its journal" if found[STORAGE] is None else found[STORAGE]
        again = "without --storage" if found[STORAGE] is None else f"with --storage {before}"
        raise ResumeError(
            f"{run.path} must go on where its processes met", got=f"{_shown(address) or 'its journal'} for {before}",
            do=f"Give the command {again}; if that is gone for good, delete {run.path / FILE}: what was under way is "
            "scored again.",
        )  # fmt: skip


def check_worker_storage(run: RunDir, address: str | None) -> None:
    """Raises InputError where a worker would wait in a journal for a run whose processes meet elsewhere."""
    place = (run.read_json(FILE) or {}).get(STORAGE)
    if address is None and place is not None:
        raise InputError(
            "a worker must come to the storage of its run", got="no --storage", do=f"Give --storage {place}."
        )


def remember_storage(run: RunDir, address: str | None) -> None:
    """Where the run's processes meet, without the password."""
    found = run.read_json(FILE) or {}
    if STORAGE not in found:
        run.write_json(FILE, {**found, STORAGE: _shown(address)})


def forget_storage(run: RunDir) -> None:
    """Nothing is out any more."""
    found = run.read_json(FILE) or {}
    if STORAGE in found:
        run.write_json(FILE, {name: value for name, value in found.items() if name != STORAGE})


def _shown(address: str | None) -> str | None:
    return None if address is None else address_without_password(address)


def read_answers(folder: Path, queue: WorkQueue) -> None:
    """Hand in the answers that workers kept because the storage was away."""
    for file in sorted((folder / ANSWERS).glob("*.json")):
        try:
            kept = json.loads(file.read_bytes())
            if not seal.is_whole(kept):
                raise ValueError
            unit = next((unit for unit in queue.units() if unit.key == kept["key"] and unit.work == kept["work"]), None)
        except FileNotFoundError:
            continue  # somebody else has just handed it in
        except (ValueError, KeyError, TypeError):
            raise ResumeError(f"{file} must be an answer", got="something else", do="Delete it.") from None
        if unit is not None:
            queue.answer(unit, kept["answer"])
        file.unlink(missing_ok=True)
