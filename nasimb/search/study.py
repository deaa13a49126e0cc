"""The search loop: Optuna proposes batches through ask/tell, everything else is decided here from the rows so far.

What the next batch is follows from the trials told and the study's seed alone, and a batch is told, and written to
Optuna's journal, once all its rows are written. So a run that was killed asks for the batch again, finds the rows it
has, and goes on exactly as it would have gone; a row that was written is never computed again.

The journal is Optuna's own: `optuna-dashboard RUN/study.journal` opens it, while a search goes on too (it lacks the
batch under way then). What the dashboard writes there (notes, new names) is dropped when the search goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from nasimb.errors import ResumeError, unknown_name
from nasimb.search.draws import Draws
from nasimb.search.journal import COMMITTED, BatchJournal
from nasimb.search.limits import CostOf, Limits
from nasimb.search.restore import REMEMBERING, Told, open_study, opened, rewritten, show_rest, tell, whole_batches
from nasimb.search.samplers import SAMPLERS
from nasimb.search.trial import CACHED, FAILED, FINISHED, INFEASIBLE, SCREENED, Candidate, Trial
from nasimb.space import SearchSpace

__all__ = ["SAMPLERS", "Evaluate", "MayStart", "Proposal", "Question", "Study"]

STARTUP = 10
"""Plain random trials before the sampler takes over (TPE's own default)."""
RANDOM_EVERY = 4
"""Afterwards every fourth trial stays random: the baseline the search is compared with, and its exploration."""
PATIENCE = 5
"""Proposals in a row that bought nothing (repeats, over a limit) before a fresh random one is drawn instead."""
KIND = "kind"
"""Attribute of Optuna's trials that no sampler proposed: who did."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate to be scored, under the number and kind that its trial will have, with its exact cost."""

    number: int
    kind: str
    candidate: Candidate
    macs: int
    params: int


Evaluate = Callable[[Sequence[Proposal]], Iterable[Trial]]
"""New candidates of one batch -> their trials (finished, screened or failed) in that order. What it makes of one may
depend on the rows before it, and on nothing that comes later: after a kill it is asked for the missing rows only."""
MayStart = Callable[[Sequence[int]], int]
"""MACs of the new candidates of a batch, in order -> how many of them, from the first on, there is budget for."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a study searches: the space, who samples it, and towards what.

    Attributes:
        calibrations: policies to choose from; one makes it no choice.
        cost: "macs" or "params" for a Pareto study of score against cost, None for the score alone.
        batch_size: candidates proposed, and scored, together.
    """

    space: SearchSpace
    calibrations: tuple[str, ...]
    limits: Limits
    sampler: str
    cost: str | None
    seed: int
    batch_size: int = 16


class Study:
    """Proposes candidates and keeps their trials.

    Args:
        question: what is searched.
        cost_of: exact cost of a subnet, head included.
        journal: Optuna's journal file, continued if there; None keeps the study in memory.
        trials: rows of the run so far, in order.
        warn: told where the journal was damaged, and is written anew from the rows.

    Attributes:
        trials: every row, those of the batch under way included.
        scored: how many of them count against a limit of trials: finished or screened.
        exhausted: whether `run` ended because nothing new within the limits was left.

    Raises:
        ResumeError: rows and journal are not of one run.
    """

    def __init__(
        self, question: Question, cost_of: CostOf, *, journal: Path | None = None, trials: Sequence[Trial] = (),
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:  # fmt: skip
        if question.sampler not in SAMPLERS:
            raise unknown_name("the sampler", question.sampler, SAMPLERS)
        self.question = question
        self.exhausted = False
        self._cost_of = cost_of
        self._draws = Draws(question.space, question.calibrations, question.limits, cost_of)
        choices = self._draws.choices
        self._distributions = {name: CategoricalDistribution(values) for name, values in choices.items()}
        self._check_numbers(trials)
        self._journal: BatchJournal | None = None
        self._open = partial(open_study, question.cost)
        if journal is None:
            self._optuna = self._open(None)
            self._load(trials)
        else:
            self._restore(journal, trials, warn)

    def _restore(self, file: Path, rows: Sequence[Trial], warn: Callable[[str], None]) -> None:
        """Go on with the journal, or with one made from the rows where it is damaged."""
        told = [self._told_as(row, rows) for row in rows]
        batch_end = partial(_batch_end, size=self.question.batch_size)
        found = opened(file, told, batch_end, self._open, warn)
        if found is not None:
            self._journal, self._optuna = found
            self._load(rows)
            return
        whole = 0 if self.question.sampler in REMEMBERING else whole_batches(len(rows), batch_end)
        # Where several processes shared the search, its rows are not those of whole batches.
        told = told if any(row.worker is not None for row in rows) else told[:whole]
        self._journal, self._optuna = rewritten(file, told, dict(self._distributions), self._open)
        self._load(rows)

    def _load(self, rows: Sequence[Trial]) -> None:
        """From the study as it is opened, and the rows."""
        self.trials: list[Trial] = []
        self.scored = 0
        self._tried: dict[Candidate, Trial] = {}
        self._seen: dict[Candidate, None] = {}  # a set in order
        self._repeats = 0
        self._batch: list[Proposal] = []
        self._new: set[int] = set()
        self._told = int(self._optuna.user_attrs.get(COMMITTED, 0))
        self._written = {trial.number: trial for trial in rows[self._told :]}
        for trial in rows[: self._told]:
            self._remember(trial)
            self._seen[trial.candidate] = None
        for asked in self._optuna.get_trials(deepcopy=False)[self._told :]:
            # Handed out to others before a kill.
            kind = str(asked.user_attrs.get(KIND, "sampler"))
            self._expect(asked.number, kind, self._draws.candidate(asked.params))
        self._saved = self._told + len(self._batch)

    def run(self, evaluate: Evaluate, may_start: MayStart, max_trials: int | None) -> Iterator[Trial]:
        """The trials of `batches`, one after another; each is to be written before the next is asked for."""
        for rows in self.batches(evaluate, may_start, max_trials):
            yield from rows

    def batches(self, evaluate: Evaluate, may_start: MayStart, max_trials: int | None) -> Iterator[list[Trial]]:
        """New rows, as many together as are scored together, until a limit says stop or the space is exhausted.

        The caller writes them before it goes on: only then they are told.

        Args:
            evaluate: scores candidates.
            may_start: how many of them there is budget for; asked again about the rest until it says 0.
            max_trials: how many scored trials there may be in all; None for no such limit.
        """
        while True:
            if not self._batch:
                self._ask()
            yield from self._answers({}, max_trials)  # those that cost nothing, and rows that a kill left behind
            if len(self.trials) == self._told + len(self._batch):
                if not self._batch:
                    self.exhausted = True
                    return
                self._close()
            if max_trials is not None and self.scored >= max_trials:
                return
            waiting = self._waiting()
            if not waiting:
                continue
            group = waiting[: None if max_trials is None else max_trials - self.scored]
            group = group[: may_start([proposal.macs for proposal in group])]
            if not group:
                return
            trials = list(evaluate(group))
            assert [trial.number for trial in trials] == [proposal.number for proposal in group]
            yield from self._answers({trial.number: trial for trial in trials}, max_trials)

    def unclaimed(self, wanted: int, taken: Container[int]) -> list[Proposal]:
        """Up to `wanted` proposals to be scored that nobody has taken, for a search that several processes share.

        More are asked for as needed, before all asked for earlier are answered; they are in the journal when this
        returns, so that after a kill they are not asked for again. Sets `exhausted` where nothing new is left.

        Args:
            taken: numbers of those that somebody is at, or has answered.
        """
        while True:
            free = [p for p in self._waiting() if p.number not in taken]
            asked = len(self._batch)
            if len(free) < wanted and not self.exhausted:
                self._ask()
                self._commit()
                self.exhausted = len(self._batch) == asked
            if len(free) >= wanted or self.exhausted:
                return free[:wanted]

    def missing(self, before: int, results: Container[int]) -> list[Proposal]:
        """Proposals to be scored with numbers below `before` that have neither a row nor a result."""
        return [p for p in self._waiting() if p.number < before and p.number not in results]

    def candidate_of(self, number: int) -> Candidate | None:
        """What the trial of this number is about; None where none was asked for under it."""
        if number < len(self.trials):
            return self.trials[number].candidate
        return next((p.candidate for p in self._batch if p.number == number), None)

    def settle(self, results: dict[int, Trial]) -> Iterator[list[Trial]]:
        """New rows in order, as far as they have no gap; the caller writes them before it goes on: then they are told.

        Args:
            results: trials by number, in whatever order they came; those that are rows now may be forgotten.
        """
        yield from self._answers(results, None)
        self._close()

    def show_rest(self) -> None:
        """Let readers of the journal see every row, those of a batch that nobody ends, too; the study is over then."""
        rest = [self._told_as(row, self.trials) for row in self.trials[self._told :]]
        journal, self._journal = self._journal, None
        if journal is not None and (rest or self._saved > self._told):
            numbers = {"told": self._told, "saved": self._saved}
            show_rest(self._optuna, journal, rest, dict(self._distributions), **numbers)

    def _waiting(self) -> list[Proposal]:
        return [p for p in self._batch if p.number in self._new and p.number >= len(self.trials)]

    def _answers(self, results: dict[int, Trial], max_trials: int | None) -> Iterator[list[Trial]]:
        """Rows of the batch from the first missing one up to the next that must be scored first."""
        rows = []
        for proposal in self._batch[len(self.trials) - self._told :]:
            if max_trials is not None and self.scored >= max_trials:
                break
            number = proposal.number
            row = self._written.get(number) or results.get(number)
            if row is None and number in self._new:
                break
            row = row or self._free(proposal)
            self._remember(row)
            if number not in self._written:
                rows.append(row)
        if rows:
            yield rows

    def _free(self, proposal: Proposal) -> Trial:
        """The row of a proposal over a limit, or of one that repeats another."""
        first = self._tried.get(proposal.candidate)
        if first is not None:
            return first.repeated_as(proposal.number, proposal.kind)
        return Trial(
            number=proposal.number, state=INFEASIBLE, kind=proposal.kind, candidate=proposal.candidate,
            macs=proposal.macs, params=proposal.params,
            reason=self.question.limits.exceeded(proposal.macs, proposal.params),
        )  # fmt: skip

    def _remember(self, trial: Trial) -> None:
        self.trials.append(trial)
        if trial.state in (FINISHED, SCREENED, FAILED):
            self._tried[trial.candidate] = trial
        self.scored += trial.state in (FINISHED, SCREENED)
        self._repeats = self._repeats + 1 if trial.state in (CACHED, INFEASIBLE) else 0

    def _close(self) -> None:
        """Tell Optuna what is answered, now that all its rows are written."""
        rows = self.trials[self._told :]
        if not rows:
            return
        for trial in rows:
            tell(self._optuna, trial.number, self._told_as(trial, self.trials))
            self._written.pop(trial.number, None)
            self._new.discard(trial.number)
        self._told = len(self.trials)
        self._batch = self._batch[len(rows) :]
        self._commit()

    def _commit(self) -> None:
        if self._journal is not None:
            self._optuna.set_user_attr(COMMITTED, self._told)
            self._journal.commit()
            self._saved = self._told + len(self._batch)

    def _told_as(self, trial: Trial, rows: Sequence[Trial]) -> Told:
        """What Optuna is told of a row."""
        params, exact = self._draws.parameters(trial.candidate), {"macs": trial.macs, "params": trial.params}
        value = trial.score if trial.screen_score is None else trial.screen_score
        scored = trial if trial.cached_from is None else rows[trial.cached_from]
        # What fails after it was screened keeps its screen_score for the record; it is no place to look for more.
        if value is not None and scored.state != FAILED:
            costs = [] if self.question.cost is None else [float(getattr(trial, self.question.cost))]
            return Told(params, TrialState.COMPLETE, [value, *costs], exact)
        # Pruned tells the sampler to keep away from there; failed tells it nothing.
        return Told(params, TrialState.PRUNED if trial.state == INFEASIBLE else TrialState.FAIL, None, exact)

    def _ask(self) -> None:
        """Propose the next batch; nothing where nothing new is left to try."""
        first = self._told + len(self._batch)
        self._optuna.sampler = SAMPLERS[self.question.sampler](self._seed(first), self._distributions)
        for number in range(first, _batch_end(first, self.question.batch_size)):
            kind = self._due(number, len(self._tried) + len(self._pending()), self._repeated())
            candidate = self._propose(kind, number)
            if candidate is None:
                break
            self._expect(number, kind, candidate)
        self._check_same()

    def _expect(self, number: int, kind: str, candidate: Candidate) -> None:
        """Add a proposal to the batch; it is new unless it repeats another or is over a limit."""
        macs, params = self._cost_of(candidate.subnet)
        if candidate not in self._tried and candidate not in self._pending():
            named = kind in ("smallest", "largest")
            if named or self.question.limits.exceeded(macs, params) is None:
                self._new.add(number)
        self._seen[candidate] = None
        self._batch.append(Proposal(number, kind, candidate, macs, params))

    def _pending(self) -> set[Candidate]:
        """Candidates of the batch that will be scored."""
        new = (asked.candidate for asked in self._batch if asked.number in self._new)
        return {candidate for candidate in new if candidate not in self._tried}

    def _repeated(self) -> int:
        """Proposals in a row, up to the last of the batch, that bought nothing."""
        since = list(takewhile(lambda asked: asked.number not in self._new, reversed(self._batch)))
        return len(since) + (self._repeats if len(since) == len(self._batch) else 0)

    def _due(self, number: int, done: int, repeats: int) -> str:
        """Whose turn trial `number` is, after `done` candidates, and `repeats` in a row that bought nothing."""
        if number < 2:  # once each: where subnets differ in their norms alone, the largest is the smallest again
            return ("smallest", "largest")[number]
        return "random" if done < 2 + STARTUP or done % RANDOM_EVERY == 0 or repeats >= PATIENCE else "sampler"

    def _propose(self, kind: str, number: int) -> Candidate | None:
        """The candidate of trial `number`, which runs from now on as far as Optuna knows."""
        if kind == "sampler":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return self._draws.candidate(self._optuna.ask(dict(self._distributions)).params)
        space, first = self.question.space, self.question.calibrations[0]
        if kind == "random":
            candidate = self._draws.unseen(np.random.default_rng([self.question.seed, number]), self._seen)
        else:
            candidate = Candidate(space.smallest() if kind == "smallest" else space.largest(), first)
        if candidate is not None:
            running = create_trial(
                state=TrialState.RUNNING, params=self._draws.parameters(candidate), user_attrs={KIND: kind},
                distributions=dict(self._distributions),
            )  # fmt: skip
            self._optuna.add_trial(running)
        return candidate

    def _seed(self, number: int) -> int:
        return int(np.random.SeedSequence([self.question.seed, number]).generate_state(1)[0])

    def _check_numbers(self, trials: Sequence[Trial]) -> None:
        """Raise ResumeError unless rows have the numbers 0, 1, ..."""
        if [trial.number for trial in trials] != list(range(len(trials))):
            raise ResumeError(
                "trials.csv must have every trial once, in order",
                got=f"{len(trials)} rows of which some are missing or doubled",
                do="Restore it, or start a new run.",
            )

    def _check_same(self) -> None:
        """Raise ResumeError unless rows written before are those of the batch asked for now."""
        for proposal in self._batch:
            row = self._written.get(proposal.number)
            if row is not None and (row.candidate, row.kind) != (proposal.candidate, proposal.kind):
                raise ResumeError(
                    "a search must be continued by the versions that it was started with",
                    got=f"{proposal.candidate} instead of {row.candidate} as trial {row.number}",
                    do="Install those of environment.json, or start a new run.",
                )


def _batch_end(number: int, size: int) -> int:
    """Where the batch that begins at `number` ends: smallest and largest, the random start, then `size` at a time."""
    for end in (2, 2 + STARTUP):
        if number < end:
            return min(number + size, end)
    return number + size - (number - 2 - STARTUP) % size
