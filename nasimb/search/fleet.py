"""The owner's side of a search that several processes share: who works, what each has spent, and what is out.

Workers draw on one balance. Each is granted its time in small steps ahead, out of what is left at that moment, and
leaves when it has used them up: so the sum never exceeds the budget, whoever dies. A worker whose count of beats stands
still on the owner's clock for a while is lost; its unit is taken back, and a late answer is refused by the storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState

from nasimb.budget import NOTHING, Clock
from nasimb.ledger import Ledger
from nasimb.search.queue import OPEN, OVER, Beat, Owner, Unit, WorkQueue


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often everybody is heard.

    Attributes:
        beat_seconds: between two beats of anybody: what a killed worker's spend may lack.
        grace_seconds: without a beat, after which a worker is lost.
        window_seconds: granted ahead: how long a worker goes on without hearing from the owner.
        stuck_seconds: in one step of its work, after which a worker says no more that it is alive.
    """

    beat_seconds: float = 2.0
    grace_seconds: float = 15.0
    window_seconds: float = 20.0
    stuck_seconds: float = 900.0


RHYTHM = Rhythm()
RETURNED = "returned"
"""In place of an answer: why a worker gives a unit back."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a unit.

    Attributes:
        work: as it was put.
        answer: None where there is none: then the work is to be done again.
        worker: who had it.
        lost: whether that worker is gone without a word, rather than having given the unit back.
    """

    work: Mapping[str, Any]
    answer: Mapping[str, Any] | None
    worker: str | None
    lost: bool = False


@dataclass(slots=True)
class _Heard:
    count: int
    at: float


class Fleet:
    """Hands out units, hears workers, charges them, and takes back what the lost ones had.

    Args:
        queue: the units.
        ledger: pays.
        clock: the owner's.
        say: told who comes and goes.
        phase: that workers are charged to.
        rhythm: of everybody.

    Attributes:
        holding: what all workers that are heard hold together.
    """

    def __init__(
        self, queue: WorkQueue, ledger: Ledger, clock: Clock, *, say: Callable[[str], None] = lambda line: None,
        phase: str = "search", rhythm: Rhythm = RHYTHM,
    ) -> None:  # fmt: skip
        self.queue = queue
        self._ledger, self._clock, self._say, self._phase, self._rhythm = ledger, clock, say, phase, rhythm
        self._heard: dict[str, _Heard] = {}
        self._beats: dict[str, Beat] = {}
        self._alive: set[str] = set()
        self.holding = NOTHING
        self._out: dict[int, Mapping[str, Any]] = {}
        self._running: dict[int, float] = {}
        self._served_at = self._read_at = float("-inf")
        self._count = queue.owner().count
        self._dead: set[str] = set()
        # Whoever beat for an earlier owner is there once it beats again, and not before.
        self._earlier = {name: beat.count for name, beat in queue.beats().items()}

    @property
    def size(self) -> int:
        """How many workers are heard."""
        return len(self._alive)

    @property
    def out(self) -> int:
        """Units that have not ended."""
        return len(self._out)

    def hears(self, prefix: str) -> bool:
        """Whether a worker whose name begins so is heard."""
        return any(name.startswith(prefix) for name in self._alive)

    def works(self) -> list[Mapping[str, Any]]:
        """Units out, as they were put."""
        return list(self._out.values())

    def announce(self, state: str) -> None:
        """Say where the run stands, between two `serve`s."""
        self._count += 1
        self.queue.announce(Owner(self._count, state, {}))

    def serve(self, keep_seconds: float = 0.0) -> None:
        """Hear, charge and grant; call it often: it acts once a beat.

        Args:
            keep_seconds: that must be left to the owner when the workers are done.
        """
        now = self._clock()
        if now - self._served_at < self._rhythm.beat_seconds:
            return
        self.hear()
        left = self._ledger.remaining(self.holding, keep_seconds=keep_seconds)
        granted: dict[str, float | None] = {}
        for name in sorted(self._alive):
            if left == float("inf"):
                granted[name] = None
            else:
                seconds = min(self._rhythm.window_seconds, max(left, 0.0))
                holding = self._beats[name].holding
                granted[name] = self._ledger.grant(name, holding, seconds, keep_seconds=keep_seconds)
        self._count += 1
        self.queue.announce(Owner(self._count, OPEN, granted))
        self._served_at = now

    def hear(self) -> None:
        """Charge every worker what it says it has held, and note who is there."""
        beats = self.queue.beats()
        now = self._clock()
        # While the storage was away, or this process busy, nobody could be heard: that is held against nobody.
        deaf = now - self._read_at > self._rhythm.grace_seconds / 3
        self._read_at = now
        held = [(name, beat.holding, beat.held_seconds - self._ledger.charged(name)) for name, beat in beats.items()]
        self._ledger.charge(self._phase, held)
        for name, beat in beats.items():
            heard = self._heard.get(name)
            if self._earlier.get(name) == beat.count:
                continue
            if heard is None or heard.count != beat.count or deaf:
                self._heard[name] = _Heard(beat.count, now)
            silent_seconds = now - self._heard[name].at
            here = not (beat.left or name in self._dead) and silent_seconds < self._rhythm.grace_seconds
            if here and name not in self._alive:
                self._say(f"{name} works with us ({beat.place}).")
            elif not here and name in self._alive:
                self._say(
                    f"{name} has left."
                    if beat.left
                    else f"{name} is lost: not heard for {self._rhythm.grace_seconds:g} s."
                )
            (self._alive.add if here else self._alive.discard)(name)
            # What is lost may still go on to the end of its grant, and that is its to spend.
            if beat.left or name in self._dead or silent_seconds >= self._rhythm.window_seconds:
                self._ledger.release(name)
        if deaf:
            self._running.clear()
        self._beats = beats
        self.holding = sum((beats[name].holding for name in self._alive), NOTHING)

    def bury(self, prefix: str) -> None:
        """Workers whose names begin so are known to be dead: nobody needs to wait for a sign of them."""
        for name in [name for name in self._alive if name.startswith(prefix)]:
            self._dead.add(name)
            self._alive.discard(name)
            self._ledger.release(name)
            self._say(f"{name} is dead.")
        self.holding = sum((self._beats[name].holding for name in self._alive), NOTHING)

    def put(self, work: Mapping[str, Any]) -> None:
        """Hand a unit out to whoever claims it first."""
        self._out[self.queue.put(work)] = work

    def adopt(self, wanted: Callable[[Mapping[str, Any]], bool] = lambda work: True) -> Iterator[Ended]:
        """After a restart: units that ended before; those that did not are out again.

        Args:
            wanted: whether the work of a unit is still asked for.
        """
        for unit in self.queue.units():
            if unit.state.is_finished():
                answered = unit.state == TrialState.COMPLETE and unit.answer is not None
                if answered and RETURNED not in (unit.answer or {}) and wanted(unit.work):
                    yield Ended(unit.work, unit.answer, unit.worker)
            elif unit.state == TrialState.RUNNING and wanted(unit.work):
                self._out[unit.key] = unit.work
            else:
                self.queue.take_back(unit.key)  # nobody has it, and it may be put once more; or it is not asked for

    def collect(self) -> list[Ended]:
        """What ended since the last call, with what is taken back from the lost."""
        if not self._out:
            return []
        found = list(self.queue.found(frozenset(self._out)))
        unclaimed = set(self._out) - {unit.key for unit in found}
        ended = [one for unit in found if (one := self._ended(unit)) is not None]
        if not self._alive:
            # Nobody is left to claim them: they go back to the owner.
            taken_back = [key for key in unclaimed if self.queue.take_back(key)]
            ended += [Ended(self._out.pop(key), None, None) for key in taken_back]
        return ended

    def _ended(self, unit: Unit) -> Ended | None:
        work = self._out[unit.key]
        if not unit.state.is_finished():
            if not self._is_lost(unit):
                return None
            if not self.queue.take_back(unit.key):
                return None  # its answer was there first, and is found the next time
            unit = Unit(unit.key, unit.work, TrialState.FAIL, unit.worker)
        del self._out[unit.key]
        self._running.pop(unit.key, None)
        answer = unit.answer if unit.state == TrialState.COMPLETE else None
        if answer is not None and RETURNED in answer:
            self._say(f"{unit.worker} gave work back: {answer[RETURNED]}.")
            return Ended(work, None, unit.worker)
        # A claim without a name may be one whose reply was lost: nobody has begun.
        return Ended(work, answer, unit.worker, lost=answer is None and unit.worker is not None)

    def _is_lost(self, unit: Unit) -> bool:
        """Whether nobody is at a claimed unit: its worker is gone, or died before it could say its name."""
        if unit.worker in self._dead:
            return True
        if unit.worker is not None and unit.worker in self._heard:
            return unit.worker not in self._alive
        since = self._running.setdefault(unit.key, self._clock())
        return self._clock() - since > self._rhythm.grace_seconds

    def close(self) -> None:
        """Tell everybody that the work is over; what nobody has claimed is taken back."""
        for unit in self.queue.units():
            if not unit.state.is_finished():
                self.queue.take_back(unit.key)
        self._out.clear()
        self._count += 1
        self.queue.announce(Owner(self._count, OVER, {}))
        self.hear()
