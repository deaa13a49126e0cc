"""Units of work of one run, put by its owner, claimed and answered by workers: all within one Optuna study.

Every unit is a trial of the study: WAITING, RUNNING once claimed, COMPLETE with an answer, FAIL when it was taken back.
Optuna's storages change a trial's state atomically, so that a unit is claimed by one worker and ends once, whichever
storage it is: an answer that comes after the unit was taken back is refused. Candidates travel as one attribute, not as
Optuna's parameters: on PostgreSQL a trial of 14 parameters takes 38 ms to write, one attribute 3 ms (the study with the
parameters is RUN/study.journal).

What the owner and every worker have to say about themselves stands in attributes of the study, written every few
seconds with a count that grows. Who watches a count on a clock of its own needs no clock in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nasimb.budget import Holding
from nasimb.search.storage import Reaching

OWNER, WORKER = "owner", "worker:"
UNIT, CLAIMED_BY, ANSWER = "unit", "claimed_by", "answer"
PREPARING, OPEN, OVER = "preparing", "open", "over"


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of work.

    Attributes:
        key: of the trial in the storage.
        work: what is to be done, as JSON holds it.
        answer: what came of it; None while there is nothing.
        worker: who claimed it; None if nobody has.
        state: of the trial.
    """

    key: int
    work: Mapping[str, Any]
    state: TrialState
    worker: str | None = None
    answer: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker says of itself.

    Attributes:
        count: grows with every beat.
        held_seconds: for which it has held its devices so far.
        gpus, threads: that it holds.
        place: host and process, for people.
        left: whether it has gone, of its own will.
    """

    count: int
    held_seconds: float
    gpus: int
    threads: int
    place: str
    left: bool = False

    @property
    def holding(self) -> Holding:
        """What it holds."""
        return Holding(self.gpus, self.threads)


@dataclass(frozen=True, slots=True)
class Owner:
    """What the owner of the run says.

    Attributes:
        count: grows with every beat.
        state: "preparing", "open" (there is or will be work) or "over".
        granted_seconds: for which each worker may hold its devices in all; None: as long as it likes.
    """

    count: int = 0
    state: str = PREPARING
    granted_seconds: Mapping[str, float | None] = field(default_factory=dict)


class WorkQueue:
    """The units of one run.

    Args:
        reaching: the storage.
        name: of the run's study in it; made if it is not there.
    """

    def __init__(self, reaching: Reaching, name: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.reaching = reaching
        self._study = self._open(name)

    def _open(self, name: str) -> int:
        try:
            return int(self.reaching("create_new_study", [StudyDirection.MAXIMIZE], name))
        except DuplicatedStudyError:
            return int(self.reaching("get_study_id_from_name", name))

    def put(self, work: Mapping[str, Any]) -> int:
        """Add a unit; returns its key."""
        template = create_trial(state=TrialState.WAITING, system_attrs={UNIT: dict(work)})
        return int(self.reaching("create_new_trial", self._study, template_trial=template))

    def deposit(self, work: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Keep what the owner did itself as a unit that has ended, for a restart."""
        attributes = {UNIT: dict(work), ANSWER: dict(answer)}
        ended = create_trial(state=TrialState.COMPLETE, value=0.0, system_attrs=attributes)
        self.reaching("create_new_trial", self._study, template_trial=ended)

    def units(self) -> list[Unit]:
        """Every unit, in the order they were put."""
        return [_unit(trial) for trial in self._trials()]

    def found(self, keys: frozenset[int]) -> Iterator[Unit]:
        """Those of these units that ended, or were claimed."""
        for trial in self._trials():
            if trial._trial_id in keys and trial.state != TrialState.WAITING:
                yield _unit(trial)

    def claim(self, worker: str) -> Unit | None:
        """The first unit that nobody else has claimed, now the worker's; None where there is none."""
        for trial in self._trials((TrialState.WAITING,)):
            try:
                if self.reaching("set_trial_state_values", trial._trial_id, TrialState.RUNNING):
                    self.reaching("set_trial_system_attr", trial._trial_id, CLAIMED_BY, worker)
                    return _unit(trial)
            except UpdateFinishedTrialError:
                continue  # taken back meanwhile
        return None

    def answer(self, unit: Unit, answer: Mapping[str, Any]) -> bool:
        """Say what came of a unit; False where it was taken back before, so that the answer does not count."""
        try:
            self.reaching("set_trial_system_attr", unit.key, ANSWER, dict(answer))
            self.reaching("set_trial_state_values", unit.key, TrialState.COMPLETE, [0.0])
        except UpdateFinishedTrialError:
            # It may have been this very answer, of which the storage could not say any more that it had come.
            return self._trial(unit.key).state == TrialState.COMPLETE
        return True

    def take_back(self, key: int) -> bool:
        """End a unit without an answer; False where an answer was there first.

        An answer of a worker that died before it could end the unit is one.
        """
        trial = self._trial(key)
        answered = ANSWER in trial.system_attrs
        try:
            state, values = (TrialState.COMPLETE, [0.0]) if answered else (TrialState.FAIL, None)
            self.reaching("set_trial_state_values", key, state, values)
        except UpdateFinishedTrialError:
            return self._trial(key).state == TrialState.FAIL
        return not answered

    def beat(self, worker: str, beat: Beat) -> None:
        """Say that a worker is alive."""
        self.reaching("set_study_system_attr", self._study, WORKER + worker, asdict(beat))

    def beats(self) -> dict[str, Beat]:
        """What every worker said last."""
        attributes = self.reaching("get_study_system_attrs", self._study)
        return {
            name.removeprefix(WORKER): Beat(**values) for name, values in attributes.items() if name.startswith(WORKER)
        }

    def announce(self, owner: Owner) -> None:
        """Say that the owner is alive, and what it grants."""
        self.reaching("set_study_system_attr", self._study, OWNER, asdict(owner))

    def owner(self) -> Owner:
        """What the owner said last."""
        values = self.reaching("get_study_system_attrs", self._study).get(OWNER)
        return Owner() if values is None else Owner(**values)

    def _trials(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        found: list[FrozenTrial] = self.reaching("get_all_trials", self._study, deepcopy=False, states=states)
        return found

    def _trial(self, key: int) -> FrozenTrial:
        found: FrozenTrial = self.reaching("get_trial", key)
        return found


def _unit(trial: FrozenTrial) -> Unit:
    attributes = trial.system_attrs
    return Unit(
        trial._trial_id, attributes[UNIT], trial.state, attributes.get(CLAIMED_BY), attributes.get(ANSWER)
    )  # fmt: skip
