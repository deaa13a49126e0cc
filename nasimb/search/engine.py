"""A batch of candidates, scored together: one tree, one pass over the part that screens, one over the rest.

Each candidate is charged its share of what the batch took: of the calibration and of every pass by its MACs, of its
heads what they took. Scores are those that every candidate would get alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from nasimb.budget import Clock
from nasimb.data.base import ImageSet
from nasimb.errors import OverdueError
from nasimb.search.candidate import Features, Ranking, Scoring, check_finite, judge, judge_part, judge_stream, sweep
from nasimb.search.failures import FAILURES, Problem, memory_errors
from nasimb.search.screening import Screen
from nasimb.search.study import Proposal
from nasimb.search.trial import CACHED, FAILED, FINISHED, SCREENED, Candidate, Failure, Trial
from nasimb.supernet.base import images_at_a_time
from nasimb.supernet.tree import SubnetTree

Between = Callable[[], None]
Kept = dict[Candidate, Features]
"""Features of the part that screens."""
Item = TypeVar("Item", Proposal, Trial)
Result = tuple[Trial, bool]
"""A trial, and whether it failed with something that fewer images at a time may mend."""
Score = Callable[[Scoring, Sequence[Item], Sequence[Trial]], list[Result]]
"""Items and the trials before them -> their results."""


def evaluate_batch(
    scoring: Scoring,
    proposals: Sequence[Proposal],
    seen_kinds: Collection[str],
    *,
    seed: int,
    clock: Clock,
    kept: Kept | None = None,
    between: Between = lambda: None,
) -> list[Trial]:
    """The trials of these proposals, in their order: finished, screened, or failed with the reason.

    With screening all but the smallest, the largest and the first random one see the part alone (see `promote`).
    What is done about each kind of failure stands in `nasimb.search.failures`.

    Args:
        seen_kinds: `kinds_of` the trials so far.
        seed: of the study, for the record.
        kept: gets each screened candidate's features of the part, for `promote`.
        between: called between two units of work; what it raises ends the batch.
    """
    held: Kept = {} if kept is None else kept

    def score(scoring: Scoring, some: Sequence[Proposal], so_far: Sequence[Trial]) -> list[Result]:
        batch = _Batch(scoring, some, clock, between)
        trials = batch.trials({*seen_kinds, *kinds_of(so_far)}, seed, held)
        return [(trial, batch.again(member)) for member, trial in enumerate(trials)]

    def give_up(proposal: Proposal, problem: Problem, seconds: float) -> Trial:
        return failed(proposal, problem, scoring, seed, seconds)

    return _scored(scoring, proposals, clock, score, give_up)


def kinds_of(trials: Iterable[Trial]) -> set[str]:
    """Kinds of which a trial was scored, or failed: after a kill between two rows the same must follow."""
    return {trial.kind for trial in trials if trial.state != CACHED}


def promote(
    scoring: Scoring,
    trials: Sequence[Trial],
    *,
    clock: Clock,
    kept: Kept | None = None,
    between: Between = lambda: None,
) -> list[Trial]:
    """The same trials scored on all images: finished, or as they were with the reason why they could not be.

    Args:
        kept: features of the part by candidate; what is missing is computed again.
    """
    held: Kept = {} if kept is None else kept

    def score(scoring: Scoring, some: Sequence[Trial], so_far: Sequence[Trial]) -> list[Result]:
        return _promoted(scoring, some, clock, held, between)

    return _scored(scoring, trials, clock, score, _kept_back)


def _scored(
    scoring: Scoring, items: Sequence[Item], clock: Clock, score: Score[Item],
    give_up: Callable[[Item, Problem, float], Trial],
) -> list[Trial]:  # fmt: skip
    """The trials of all items; what may do better with fewer images at a time gets a second attempt."""
    found: list[Trial] = []
    for item, (trial, again) in zip(items, _attempt(scoring, items, found, clock, score, give_up), strict=True):
        if again:
            ((second, _),) = _attempt(_halved(scoring), [item], found, clock, score, give_up)
            before = item.seconds if isinstance(item, Trial) else 0.0
            seconds = round(trial.seconds + second.seconds - before, 6)
            trial = replace(second, seconds=seconds, failure=second.failure or trial.failure)
        found.append(trial)
    return found


def _attempt(
    scoring: Scoring, items: Sequence[Item], so_far: Sequence[Trial], clock: Clock, score: Score[Item],
    give_up: Callable[[Item, Problem, float], Trial],
) -> list[Result]:  # fmt: skip
    """What becomes of all items together, or of each alone where that fails."""
    start = clock()
    try:
        with memory_errors():
            return score(scoring, items, so_far)
    except FAILURES as error:
        problem = Problem.of(error)
    wasted_seconds = (clock() - start) / len(items)
    if len(items) == 1 or problem.kind is Failure.TIMEOUT:
        return [(give_up(item, problem, wasted_seconds), problem.again) for item in items]
    # One candidate's failure, or want of memory for all of them at once, is not to cost the others their score.
    found: list[Result] = []
    for item in items:
        before = [*so_far, *(trial for trial, _ in found)]
        ((trial, again),) = _attempt(scoring, [item], before, clock, score, give_up)
        found.append((replace(trial, seconds=round(trial.seconds + wasted_seconds, 6)), again))
    return found


def _halved(scoring: Scoring) -> Scoring:
    """The same with half the images a pass; what the attempt before it took is free again."""
    if scoring.device.type == "cuda":
        torch.cuda.empty_cache()
    calibration = scoring.calibration_batch or images_at_a_time(scoring.supernet.space, scoring.device)
    return replace(
        scoring, batch_size=max(scoring.batch_size // 2, 1), calibration_batch=max(calibration // 2, 1)
    )  # fmt: skip


def _promoted(scoring: Scoring, trials: Sequence[Trial], clock: Clock, kept: Kept, between: Between) -> list[Result]:
    assert scoring.screen is not None
    proposals = [Proposal(trial.number, trial.kind, trial.candidate, trial.macs, trial.params) for trial in trials]
    batch, whole = _Batch(scoring, proposals, clock, between), dict[int, Ranking]()
    with batch.in_time(whole):
        missing = [member for member, trial in enumerate(trials) if trial.candidate not in kept]
        parts = dict(batch.parts(scoring.screen, missing))
        parts |= {m: kept[trial.candidate] for m, trial in enumerate(trials) if trial.candidate in kept}
        whole.update(batch.judged(range(len(trials)), parts))
    found = []
    for member, trial in enumerate(trials):
        scored = batch.trial(member, None, whole.get(member), trial.seed)
        if scored.state == FINISHED:
            seconds, failure = round(trial.seconds + scored.seconds, 6), scored.failure or trial.failure
            new = replace(scored, screen_score=trial.screen_score, seconds=seconds, failure=failure)
        else:
            new = _kept_back(trial, batch.problems[member], scored.seconds)
        found.append((new, batch.again(member)))
    return found


def _kept_back(trial: Trial, problem: Problem, seconds: float) -> Trial:
    """The trial that could not be promoted."""
    seconds = round(trial.seconds + seconds, 6)
    return replace(trial, reason=problem.reason, failure=problem.kind, seconds=seconds)


class _Batch:
    """The tree of a batch, and what each of its members has cost and failed with so far."""

    def __init__(self, scoring: Scoring, proposals: Sequence[Proposal], clock: Clock, between: Between) -> None:
        self.scoring, self.proposals, self.clock, self.between = scoring, proposals, clock, between
        self.seconds = dict.fromkeys(range(len(proposals)), 0.0)
        self.problems: dict[int, Problem] = {}
        with self._shared(range(len(proposals))):
            self.tree = SubnetTree(
                scoring.supernet,
                [(proposal.candidate.calibration, proposal.candidate.subnet) for proposal in proposals],
                scoring.calibrations,
                dtype=scoring.dtype,
                limit_bytes=self._limit_bytes,
                calibration_batch=scoring.calibration_batch,
                between=between,
            )

    def _now(self) -> float:
        return self.scoring.now(self.clock)

    @property
    def _limit_bytes(self) -> float:
        return self.scoring.memory_mib * 2**20

    def trials(self, seen_kinds: Collection[str], seed: int, kept: Kept) -> list[Trial]:
        """Every member's trial."""
        members = range(len(self.proposals))
        screen = self.scoring.screen
        first, whole = dict[int, Ranking](), dict[int, Ranking]()
        with self.in_time(whole if screen is None else first):
            if screen is None:
                whole.update(self.judged(members, {}))
            else:
                parts: dict[int, Features] = {}
                for member, features in self.parts(screen, members):
                    ranking = self._ranked(member, features, screen)
                    if ranking is not None:
                        first[member], parts[member] = ranking, features
                        kept[self.proposals[member].candidate] = features
                at_once = [member for member in self._at_once(members, seen_kinds) if member in first]
                whole.update(self.judged(at_once, {member: parts[member] for member in at_once}))
        return [self.trial(member, first.get(member), whole.get(member), seed) for member in members]

    @contextmanager
    def in_time(self, done: Mapping[int, Ranking]) -> Iterator[None]:
        """Where time runs out inside, the members that are not done fail with it, and no others."""
        try:
            yield
        except OverdueError as error:
            for member in set(range(len(self.proposals))) - set(done):
                self.problems.setdefault(member, Problem.of(error))

    def again(self, member: int) -> bool:
        """Whether a second attempt may mend what a member failed with."""
        return member in self.problems and self.problems[member].again

    def parts(self, screen: Screen, members: Sequence[int]) -> Iterator[tuple[int, Features]]:
        """Features of the part that screens."""
        scoring = self.scoring
        for group in self._groups(members, len(screen.fitted_M)):
            fitted = self._sweep(scoring.fitted.subset(screen.fitted_M), group)
            held_out: dict[int, Tensor] = {}
            if scoring.validation is not None and screen.validation_M is not None:
                held_out = self._sweep(scoring.validation.subset(screen.validation_M), group)
            for member in group:
                yield member, Features(fitted[member], held_out.get(member))

    def judged(self, members: Sequence[int], parts: dict[int, Features]) -> Iterator[tuple[int, Ranking]]:
        """Rankings on all images; what was computed for the part is not computed again."""
        scoring, screen = self.scoring, self.scoring.screen
        # Once as they come from the network, once put together; those of the hold-out besides.
        images = 2 * len(scoring.fitted) + (0 if scoring.validation is None else 2 * len(scoring.validation))
        for group in self._groups(members, images):
            if self._needed_bytes(group[0], len(scoring.fitted)) > self._limit_bytes:
                ranking = self._streamed(group[0])
                if ranking is not None:
                    yield group[0], ranking
                continue
            fitted = self._completed(
                scoring.fitted, group, None if screen is None else screen.fitted_M,
                {member: part.fitted_ND for member, part in parts.items()},
            )  # fmt: skip
            held_out: dict[int, Tensor] = {}
            if scoring.validation is not None:
                held_out = self._completed(
                    scoring.validation, group, None if screen is None else screen.validation_M,
                    {member: part.held_out_MD for member, part in parts.items() if part.held_out_MD is not None},
                )  # fmt: skip
            for member in group:
                ranking = self._ranked(member, Features(fitted.pop(member), held_out.pop(member, None)), None)
                if ranking is not None:
                    yield member, ranking

    def _streamed(self, member: int) -> Ranking | None:
        """From features that never are in memory together: every sweep of the heads is a pass through the network."""
        scoring, fitted = self.scoring, self.scoring.fitted

        def chunks() -> Iterator[tuple[Tensor, Tensor]]:
            for images_BCHW, positions_B in fitted.batches(scoring.batch_size, scoring.device):
                self.between()
                labels_B = fitted.labels_N[positions_B].to(scoring.device)
                yield self.tree.features(images_BCHW, [member])[member], labels_B

        with self._own(member):
            return judge_stream(scoring, chunks)
        return None

    def _completed(
        self, images: ImageSet, group: Sequence[int], known_M: Tensor | None, known: dict[int, Tensor]
    ) -> dict[int, Tensor]:
        """Features of all images, given those at the positions `known_M`."""
        if known_M is None or not known:
            return self._sweep(images, group)
        rest = torch.ones(len(images), dtype=torch.bool)
        rest[known_M] = False
        rest_M = rest.nonzero().flatten()
        if not len(rest_M):
            return {member: known.pop(member) for member in group}
        found: dict[int, Tensor] = {}
        swept = self._sweep(images.subset(rest_M), group)
        for member in group:
            found[member] = swept[member].new_empty(len(images), swept[member].shape[1])
            found[member][known_M], found[member][rest_M] = known.pop(member), swept.pop(member)
        return found

    def _sweep(self, images: ImageSet, group: Sequence[int]) -> dict[int, Tensor]:
        with self._shared(group):
            return sweep(self.scoring, self.tree, images, group, between=self.between)

    def _ranked(self, member: int, features: Features, screen: Screen | None) -> Ranking | None:
        """From the features of the part that screens, or of all images; None where it failed."""
        with self._own(member):
            check_finite(features.fitted_ND, self.proposals[member].candidate)
            return judge(self.scoring, features) if screen is None else judge_part(self.scoring, screen, features)
        return None

    def _at_once(self, members: Sequence[int], seen_kinds: Collection[str]) -> list[int]:
        """Members that see all images at once: the ends of the space, and the first random one."""
        missing = {"smallest", "largest", "random"} - set(seen_kinds)
        chosen = []
        for member in members:
            kind = self.proposals[member].kind
            if kind in missing:
                chosen.append(member)
                missing.discard(kind)
        return chosen

    def _groups(self, members: Sequence[int], images: int) -> Iterator[list[int]]:
        """Members whose features of so many images fit in memory together."""
        group: list[int] = []
        taken = 0
        for member in members:
            needed = self._needed_bytes(member, images)
            if group and taken + needed > self._limit_bytes:
                yield group
                group, taken = [], 0
            group.append(member)
            taken += needed
        if group:
            yield group

    def _needed_bytes(self, member: int, images: int) -> int:
        return 4 * images * self.scoring.supernet.feature_dim(self.proposals[member].candidate.subnet)

    @contextmanager
    def _shared(self, members: Sequence[int]) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            taken, total = self._now() - start, sum(self.proposals[member].macs for member in members)
            for member in members:
                self.seconds[member] += taken * self.proposals[member].macs / total

    @contextmanager
    def _own(self, member: int) -> Iterator[None]:
        """Charge the time to one member, which alone fails if anything does."""
        self.between()
        start = self._now()
        try:
            with memory_errors():
                yield
        except FAILURES as error:
            self.problems[member] = Problem.of(error)
        self.seconds[member] += self._now() - start

    def trial(self, member: int, first: Ranking | None, whole: Ranking | None, seed: int) -> Trial:
        proposal, seconds = self.proposals[member], round(self.seconds[member], 6)
        screen_score = None if first is None else first.value
        if member in self.problems:
            failure = failed(proposal, self.problems[member], self.scoring, seed, seconds)
            return replace(failure, screen_score=screen_score)
        ranking = whole or first
        assert ranking is not None
        metrics = ranking.metrics
        return replace(
            _blank(proposal, self.scoring, seed, seconds),
            state=SCREENED if whole is None else FINISHED,
            score=None if whole is None else whole.value,
            screen_score=screen_score,
            balanced_accuracy=metrics.balanced_accuracy, many=metrics.many, medium=metrics.medium, few=metrics.few,
            worst_recall=metrics.worst_recall, balanced_loss=ranking.balanced_loss, head=ranking.head,
            setting=ranking.setting, tau=ranking.tau,
        )  # fmt: skip


def failed(proposal: Proposal, problem: Problem, scoring: Scoring, seed: int, seconds: float) -> Trial:
    """The trial of a proposal that cannot be scored."""
    blank = _blank(proposal, scoring, seed, round(seconds, 6))
    return replace(blank, state=FAILED, failure=problem.kind, reason=problem.reason)


def _blank(proposal: Proposal, scoring: Scoring, seed: int, seconds: float) -> Trial:
    return Trial(
        number=proposal.number, state=FAILED, kind=proposal.kind, candidate=proposal.candidate, macs=proposal.macs,
        params=proposal.params, seconds=seconds, device=str(scoring.device), seed=seed,
    )  # fmt: skip
