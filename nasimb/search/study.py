"""The search loop: Optuna proposes through ask/tell, everything else is decided here from the rows so far.

What the next trial is follows from the finished rows, the study's seed and Optuna's journal alone. So a run that
was killed goes on exactly as it would have gone, and a row that was written is never computed again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import TrialState

from nasimb.errors import unknown_name
from nasimb.search.limits import CostOf, Limits
from nasimb.search.trial import CACHED, FAILED, FINISHED, INFEASIBLE, Candidate, Trial
from nasimb.space import SearchSpace

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=False),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}

STARTUP = 10
"""Plain random trials before the sampler takes over (TPE's own default)."""
RANDOM_EVERY = 4
"""Afterwards every fourth trial stays random: the baseline the search is compared with, and its exploration."""
PATIENCE = 5
"""Proposals in a row that bought nothing (repeats, over a limit) before a fresh random one is drawn instead."""
DRAWS = 2000
"""Random draws in search of an unseen subnet within the limits before the space counts as exhausted."""

Evaluate = Callable[[int, str, Candidate, int, int], Trial]
"""(number, kind, candidate, macs, params) -> its finished or failed trial."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a study searches: the space, who samples it, and towards what.

    Attributes:
        calibrations: policies to choose from; one makes it no choice.
        cost: "macs" or "params" for a Pareto study of score against cost, None for the score alone.
    """

    space: SearchSpace
    calibrations: tuple[str, ...]
    limits: Limits
    sampler: str
    cost: str | None
    seed: int


class Study:
    """Proposes candidates and keeps their trials.

    Args:
        question: what is searched.
        cost_of: exact cost of a subnet, head included.
        journal: Optuna's journal file, continued if there; None keeps the study in memory.
        trials: rows of the run so far, in order.

    Attributes:
        exhausted: whether `run` ended because nothing new within the limits was left.
    """

    def __init__(
        self, question: Question, cost_of: CostOf, *, journal: Path | None = None, trials: list[Trial] | None = None
    ) -> None:
        if question.sampler not in SAMPLERS:
            raise unknown_name("the sampler", question.sampler, SAMPLERS)
        self.question = question
        self.trials = list(trials or [])
        self._cost_of = cost_of
        self._tried = {trial.candidate: trial for trial in self.trials if trial.state in (FINISHED, FAILED)}
        self.exhausted = False
        choices: dict[str, tuple[Any, ...]] = dict(question.space.choices())
        if len(question.calibrations) > 1:
            choices["calibration"] = question.calibrations
        self._choices = choices
        self._distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(values) for name, values in choices.items()
        }
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions = [StudyDirection.MAXIMIZE] + ([] if question.cost is None else [StudyDirection.MINIMIZE])
        self._optuna = optuna.create_study(
            study_name="nasimb", storage=_storage(journal), directions=directions, load_if_exists=True
        )

    def run(self, evaluate: Evaluate, may_start: Callable[[int], bool], max_trials: int | None) -> Iterator[Trial]:
        """Trials one after another, until a limit says stop or the space is exhausted.

        Args:
            evaluate: scores one candidate.
            may_start: given the next candidate's MACs, whether there is budget for it.
            max_trials: how many finished trials there may be in all; None for no such limit.
        """
        while max_trials is None or self.finished < max_trials:
            proposal = self._next()
            if proposal is None:
                self.exhausted = True
                return
            number, kind, candidate = proposal
            macs, params = self._cost_of(candidate.subnet)
            over = None if kind in ("smallest", "largest") else self.question.limits.exceeded(macs, params)
            if over is not None:
                trial = Trial(
                    number=number, kind=kind, candidate=candidate, macs=macs, params=params, state=INFEASIBLE,
                    reason=over,
                )  # fmt: skip
            elif candidate in self._tried:
                trial = self._tried[candidate].repeated_as(number, kind)
            elif not may_start(macs):
                return
            else:
                trial = evaluate(number, kind, candidate, macs, params)
            yield trial
            # The caller has written the row by now: a kill before this line finds the row and tells it on resuming.
            self._keep(trial)

    @property
    def finished(self) -> int:
        """How many trials have been scored, repeats not counted."""
        return sum(trial.state == FINISHED for trial in self._tried.values())

    def _keep(self, trial: Trial) -> None:
        self.trials.append(trial)
        if trial.state in (FINISHED, FAILED):
            self._tried[trial.candidate] = trial
        self._tell(trial)

    def _tell(self, trial: Trial) -> None:
        if trial.score is not None:
            costs = [] if self.question.cost is None else [float(getattr(trial, self.question.cost))]
            self._optuna.tell(trial.number, [trial.score, *costs])
        else:
            # Pruned tells the sampler to keep away from there; failed tells it nothing.
            state = TrialState.PRUNED if trial.state == INFEASIBLE else TrialState.FAIL
            self._optuna.tell(trial.number, state=state)

    def _next(self) -> tuple[int, str, Candidate] | None:
        """Number, kind and candidate of the next trial; None where nothing new is left to try."""
        self._settle_written()
        kind, candidate = self._due()
        for waiting in self._optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if set(waiting.params) == set(self._distributions):
                return waiting.number, kind, self._candidate(waiting.params)
            self._optuna.tell(waiting.number, state=TrialState.FAIL)  # killed while it was being asked for
        if kind != "sampler" and candidate is None:
            return None
        if candidate is not None and not self._optuna.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._optuna.enqueue_trial(self._parameters(candidate))
        self._optuna.sampler = SAMPLERS[self.question.sampler](self._seed())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            asked = self._optuna.ask(self._distributions)
        return asked.number, kind, self._candidate(asked.params)

    def _settle_written(self) -> None:
        """Tell Optuna the results that a kill kept from it: rows whose trial still counts as running."""
        written = {trial.number: trial for trial in self.trials}
        for waiting in self._optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if waiting.number in written:
                self._tell(written[waiting.number])

    def _due(self) -> tuple[str, Candidate | None]:
        """Whose turn it is, and the candidate where it is not the sampler's to choose."""
        done, space, first = self.finished + self._failed, self.question.space, self.question.calibrations[0]
        if done == 0:
            return "smallest", Candidate(space.smallest(), first)
        if done == 1 and space.size() > 1:
            return "largest", Candidate(space.largest(), first)
        stuck = 0
        for trial in reversed(self.trials):
            if trial.state not in (CACHED, INFEASIBLE):
                break
            stuck += 1
        if done < 2 + STARTUP or done % RANDOM_EVERY == 0 or stuck >= PATIENCE:
            return "random", self._unseen()
        return "sampler", None

    @property
    def _failed(self) -> int:
        return sum(trial.state == FAILED for trial in self.trials)

    def _unseen(self) -> Candidate | None:
        """A uniform draw among candidates within the limits that have no row yet."""
        rng = np.random.default_rng([self.question.seed, len(self.trials)])
        seen = {trial.candidate for trial in self.trials}
        for _ in range(DRAWS):
            subnet = self.question.space.sample(rng)
            policy = self.question.calibrations[rng.integers(len(self.question.calibrations))]
            candidate = Candidate(subnet, policy)
            if candidate not in seen and self._within(candidate):
                return candidate
        return self._neighbour(seen, rng)

    def _neighbour(self, seen: set[Candidate], rng: np.random.Generator) -> Candidate | None:
        """One choice away from a candidate within the limits: where uniform draws find nothing, little is within.

        Cost falls with every choice towards the smallest, so that whatever is within hangs together by such steps.
        """
        within = [candidate for candidate in dict.fromkeys(t.candidate for t in self.trials) if self._within(candidate)]
        for position in rng.permutation(len(within)):
            values = self._parameters(within[position])
            steps = [(name, value) for name, options in self._choices.items() for value in options]
            for step in rng.permutation(len(steps)):
                name, value = steps[step]
                candidate = self._candidate({**values, name: value})
                if candidate not in seen and self._within(candidate):
                    return candidate
        return None

    def _within(self, candidate: Candidate) -> bool:
        return self.question.limits.exceeded(*self._cost_of(candidate.subnet)) is None

    def _seed(self) -> int:
        return int(np.random.SeedSequence([self.question.seed, len(self.trials)]).generate_state(1)[0])

    def _candidate(self, parameters: dict[str, Any]) -> Candidate:
        calibration = parameters.get("calibration", self.question.calibrations[0])
        return Candidate(self.question.space.subnet(parameters), str(calibration))

    def _parameters(self, candidate: Candidate) -> dict[str, Any]:
        values: dict[str, Any] = dict(self.question.space.values(candidate.subnet))
        return {**values, "calibration": candidate.calibration} if "calibration" in self._distributions else values


def _storage(journal: Path | None) -> BaseStorage:
    if journal is None:
        return InMemoryStorage()
    # The run folder is held by one process, so a lock older than this was left by a kill.
    lock = JournalFileOpenLock(str(journal), grace_period=5)
    return JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
