"""What a worker does: claim a unit, score it with the frozen super-network at hand, answer, and go on.

It holds its devices from the first beat on, says every few seconds for how long, and leaves when what it was granted is
used up, when the work is over, when its owner is gone, or when it is told to. A unit that it cannot finish it gives
back; one whose answer the storage does not take is kept in a file that the resumed run reads.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from nasimb import seal
from nasimb.budget import Clock, Holding
from nasimb.durable import replace_whole
from nasimb.errors import Interrupted, NasimbError
from nasimb.search import packets
from nasimb.search.candidate import Scoring
from nasimb.search.engine import Kept, evaluate_batch, promote
from nasimb.search.fleet import RETURNED, RHYTHM, Rhythm
from nasimb.search.queue import OVER, Beat, Owner, Unit, WorkQueue
from nasimb.search.storage import StorageError, short_patience
from nasimb.search.trial import Trial
from nasimb.session import Stop

POLL_SECONDS, LONGEST_POLL_SECONDS = 0.02, 0.5
ANSWERS = "answers"
"""Folder of the run for answers that the storage did not take."""


class Leaving(NasimbError):
    """A unit is given back, because its worker has to leave; the message is not for users."""


class Heart:
    """Beats from a thread, and hears what the owner says.

    Args:
        queue: where it beats.
        name: of the worker.
        holding: from the start on.
        place: for people.
    """

    def __init__(
        self, queue: WorkQueue, name: str, holding: Holding, place: str, clock: Clock, rhythm: Rhythm = RHYTHM
    ) -> None:
        self.name, self.owner = name, Owner()
        self._queue, self._holding, self._place, self._clock, self._rhythm = queue, holding, place, clock, rhythm
        self._start = self._owner_changed = self._stepped = clock()
        self._count = self._knowing_count = 0
        self._over = threading.Event()
        self._lock = threading.Lock()

    @property
    def held_seconds(self) -> float:
        """Since the start."""
        return self._clock() - self._start

    @property
    def silence_seconds(self) -> float:
        """Since the owner last said anything."""
        return self._clock() - self._owner_changed

    @property
    def granted(self) -> bool:
        """Whether the owner knows this worker, and has granted it time that is not used up."""
        seconds = self.owner.granted_seconds.get(self.name, 0.0)
        return seconds is None or self.held_seconds < seconds

    @property
    def spent(self) -> bool:
        """Whether the owner, who was heard just now, grants no more; a silent one may only be out of reach.

        So may one be that was out of reach until just now, and has not read yet how long this worker has been here.
        """
        known = self.name in self.owner.granted_seconds and self.owner.count >= self._knowing_count
        return known and not self.granted and self.silence_seconds < 3 * self._rhythm.beat_seconds

    def step(self) -> None:
        """Whoever works has come to its next step: call it often."""
        self._stepped = self._clock()

    @property
    def stuck(self) -> bool:
        """Whether a step takes so long that nothing is to be expected of it, such as a device that hangs."""
        return self._clock() - self._stepped > self._rhythm.stuck_seconds

    def beat(self, *, left: bool = False) -> None:
        """Say that the worker is alive, or has left; and listen."""
        with self._lock:
            self._count += 1
            begun = self._clock()
            held = Beat(self._count, self.held_seconds, self._holding.gpus, self._holding.threads, self._place, left)
            self._queue.beat(self.name, held)
            said = self._queue.owner()
            if self._clock() - begun > 2 * self._rhythm.beat_seconds:
                # This beat is old. The owner reads the next before it announces itself for the third time from now.
                self._knowing_count = said.count + 3
            if said.count != self.owner.count:
                self._owner_changed = self._clock()
            self.owner = said

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Beat until the end, and say goodbye then; while a step is stuck, fall silent, so that others take over."""

        def keep_beating() -> None:
            while not self._over.wait(self._rhythm.beat_seconds):
                try:
                    if not self.stuck:
                        self.beat()
                except NasimbError:  # the storage is away; who works meets it and says so
                    continue

        self.beat()
        thread = threading.Thread(target=keep_beating, name="heart", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(self._rhythm.beat_seconds)
            # Where that fails, the worker is thought lost, which costs a little time and nothing else.
            with short_patience(self._queue.reaching, 2.0), suppress(StorageError):
                self.beat(left=True)


Perform = Callable[[Unit, Callable[[], None]], list[Trial]]
"""A unit, and what is to be called between two steps (what it raises ends the unit) -> its trials."""


def work(
    queue: WorkQueue, heart: Heart, perform: Perform, folder: Path, *, stop: Stop, say: Callable[[str], None],
    patience_seconds: float, alone: Callable[[], bool] = lambda: False,
) -> int:  # fmt: skip
    """Units of work until there is a reason to leave; returns how many were answered.

    Args:
        perform: does one unit, as `Scorer` does.
        folder: of the run, for answers that the storage does not take.
        patience_seconds: without a word of the owner, after which it is gone.
        alone: whether the process that started this worker is gone.

    Raises:
        Interrupted: `stop` returned a signal; the unit under way is given back.
        StorageError: the storage was away for too long. NasimbError: `perform` met something that it cannot work with.
    """

    def between() -> None:
        heart.step()
        signal_number = stop()
        if signal_number:
            raise Leaving("a worker works until it is stopped", got=f"signal {signal_number}", do="Start it again.")
        if not heart.granted:
            raise Leaving("a worker keeps to its grant", got="the time granted is used up", do="Extend the budget.")

    answered, poll = 0, POLL_SECONDS
    while True:
        heart.step()
        reason = reason_to_leave(heart, stop, alone, patience_seconds)
        if reason is not None:
            say(f"{reason}; {answered} units of work answered.")
            return answered
        unit = queue.claim(heart.name) if heart.granted else None
        if unit is None:
            time.sleep(poll)
            poll = min(2 * poll, LONGEST_POLL_SECONDS)
            continue
        poll = POLL_SECONDS
        try:
            trials = perform(unit, between)
        except Leaving as leaving:
            queue.answer(unit, {RETURNED: str(leaving.got)})
            continue
        except NasimbError as error:
            queue.answer(unit, {RETURNED: str(error)})
            raise
        answered += _hand_in(queue, unit, [replace(trial, worker=heart.name) for trial in trials], folder, say)


def _hand_in(
    queue: WorkQueue, unit: Unit, trials: Sequence[Trial], folder: Path, say: Callable[[str], None]
) -> bool:  # fmt: skip
    """Whether the answer counts."""
    answer = packets.answer(trials)
    try:
        counts = queue.answer(unit, answer)
    except (StorageError, Interrupted):
        say(f"The answer is kept in {save_answer(folder, unit, answer)}.")
        raise
    if not counts:
        say(f"Trials {packets.numbers_of(unit.work)}: the answer came too late, and does not count.")
    return counts


def reason_to_leave(heart: Heart, stop: Stop, alone: Callable[[], bool], patience_seconds: float) -> str | None:
    """Why a worker that has no unit should go; None: it should not.

    Raises:
        Interrupted: `stop` returned a signal.
    """
    signal_number = stop()
    if signal_number:
        raise Interrupted(signal_number, resume="Start the worker again to go on.")
    if heart.owner.state == OVER:
        return "The search is over"
    if heart.spent:
        return "The budget is spent"
    if alone():
        return "The search has ended or was stopped"
    if heart.silence_seconds > patience_seconds:
        return f"The search has not been heard for {patience_seconds:g} s"
    return None


class Scorer:
    """Scores candidates with the frozen super-network at hand.

    Args:
        seed: of the study.
    """

    def __init__(self, scoring: Scoring, *, seed: int, clock: Clock) -> None:
        self._scoring, self._seed, self._clock = scoring, seed, clock
        self._kept: Kept = {}

    def __call__(self, unit: Unit, between: Callable[[], None]) -> list[Trial]:
        """The trials of a unit of scoring, or of promotion."""
        if unit.work["task"] == packets.SCORE:
            attempts = packets.attempts_of(unit.work)
            found = evaluate_batch(
                self._scoring, packets.proposals_of(unit.work), unit.work["seen_kinds"], seed=self._seed,
                clock=self._clock, kept=self._kept, between=between,
            )  # fmt: skip
            found = [replace(trial, attempt=attempts[trial.number]) for trial in found]
        else:
            trials = packets.trials_of_packet(unit.work)
            found = promote(self._scoring, trials, clock=self._clock, kept=self._kept, between=between)
        self._forget()
        return found

    def _forget(self) -> None:
        """Features of the part that screens are kept as far as memory goes, the latest first."""
        taken = 0
        for candidate in reversed(list(self._kept)):
            taken += self._kept[candidate].nbytes
            if taken > self._scoring.memory_mib * 2**20:
                del self._kept[candidate]


def save_answer(folder: Path, unit: Unit, answer: object) -> Path:
    """Keep an answer that the storage did not take, for the resumed run."""
    (folder / ANSWERS).mkdir(exist_ok=True)
    file = folder / ANSWERS / f"{unit.key}.json"
    kept = seal.sealed({"key": unit.key, "work": unit.work, "answer": answer})
    replace_whole(file, json.dumps(kept).encode())
    return file
