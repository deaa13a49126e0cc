"""A batch of candidates: every score as alone, screening that saves and says so, failures that stay their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from made_scoring import images as made_images
from made_scoring import made_scoring
from torch import Tensor

from nasimb.data.base import ImageSet
from nasimb.heads.base import leave_one_out
from nasimb.metrics import measure
from nasimb.search import engine
from nasimb.search.candidate import Scoring, features_of, rank, statistics_of
from nasimb.search.engine import Kept, evaluate_batch, kinds_of, promote
from nasimb.search.screening import Screen, class_capped
from nasimb.search.study import Proposal
from nasimb.search.trial import FAILED, FINISHED, SCREENED, Candidate, Trial
from nasimb.space import SearchSpace, Stage

SPACE = SearchSpace(
    name="tiny", backbone="resnet", stem_width=4, resolutions=(6, 8), taps=(1, 2),
    stages=(
        Stage(depths=(1, 2), widths=(4, 6), kernel_sizes=(3,), norms=("bn", "nbn")),
        Stage(depths=(1, 2), widths=(6, 10), kernel_sizes=(3, 5), norms=("bn",), stride=2),
    ),
)  # fmt: skip
COUNTS = (240, 120, 9, 1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


images = partial(made_images, noise=160, contrast=50)


def make_scoring(**changes: Any) -> Scoring:
    fitted = changes.pop("fitted", None) or images(COUNTS, 1)
    return made_scoring(SPACE, fitted, **{"batch_size": 64, **changes})


def screened(scoring: Scoring, eta: int = 3) -> Scoring:
    part_M = class_capped(scoring.fitted.labels_N, seed=0)
    assert part_M is not None
    held_M = None if scoring.validation is None else class_capped(scoring.validation.labels_N, seed=0, cap=4)
    return replace(scoring, screen=Screen(part_M, held_M, eta))


def proposals(scoring: Scoring, count: int, kind: str = "sampler") -> list[Proposal]:
    rng = np.random.default_rng(0)
    subnets = [SPACE.sample(rng) for _ in range(count)]
    return [
        Proposal(number, kind, Candidate(subnet, "source"), *scoring.cost_of(subnet))
        for number, subnet in enumerate(subnets)
    ]


class Ticks:
    """A clock that goes on by one at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def run(scoring: Scoring, batch: list[Proposal], earlier: list[Trial] | None = None, **options: Any) -> list[Trial]:
    options = {"seed": 3, "clock": Ticks(), **options}
    return evaluate_batch(scoring, batch, kinds_of(earlier or []), **options)


def without_seconds(trials: list[Trial]) -> list[Trial]:
    return [replace(trial, seconds=0.0) for trial in trials]


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("screening", [False, True])
def test_a_batch_scores_every_candidate_as_it_is_scored_alone(held_out: bool, screening: bool) -> None:
    scoring = make_scoring(validation=images((30, 20, 6, 4), 9) if held_out else None)
    scoring = screened(scoring) if screening else scoring
    batch = proposals(scoring, 10)
    batch[4] = replace(batch[4], kind="random")
    together = run(scoring, batch)
    alone: list[Trial] = []
    for proposal in batch:
        alone += run(scoring, [proposal], alone)
    assert without_seconds(together) == without_seconds(alone)
    # Wherever a kill cuts the batch, the rest is judged the same.
    assert without_seconds(run(scoring, batch[4:], together[:4])) == without_seconds(together[4:])
    states = {trial.state for trial in together}
    assert states == ({FINISHED, SCREENED} if screening else {FINISHED})


def test_full_scores_are_those_of_rank() -> None:
    scoring = make_scoring()
    batch = proposals(scoring, 4)
    for trial in run(scoring, batch):
        expected = rank(scoring, trial.candidate)
        assert (trial.score, trial.head, trial.setting) == (expected.value, expected.head, expected.setting)
        assert trial.screen_score is None


def promoted(scoring: Scoring, trials: list[Trial], **options: Any) -> list[Trial]:
    return promote(scoring, trials, **{"clock": Ticks(), "kept": {}, **options})


@pytest.mark.parametrize("held_out", [False, True])
def test_a_promoted_candidate_has_the_score_it_would_have_without_screening(held_out: bool) -> None:
    scoring = make_scoring(validation=images((30, 20, 6, 4), 9) if held_out else None)
    batch = proposals(scoring, 9)
    plain = run(scoring, batch)
    kept: Kept = {}
    first = run(screened(scoring), batch, kept=kept)
    assert {trial.state for trial in first} == {SCREENED}
    assert set(kept) == {trial.candidate for trial in first}
    del kept[first[3].candidate], kept[first[5].candidate]  # what memory had no room for, or a kill took
    for trial, before, wanted in zip(promoted(screened(scoring), first, kept=kept), first, plain, strict=True):
        assert trial.state == FINISHED
        assert trial.score == pytest.approx(wanted.score, abs=1e-9)
        assert (trial.number, trial.kind, trial.seed) == (before.number, before.kind, before.seed)
        assert trial.screen_score == before.screen_score
        assert trial.seconds > before.seconds


def test_a_promotion_that_fails_leaves_the_trial_screened_with_a_reason() -> None:
    scoring = screened(make_scoring())
    first = run(scoring, proposals(scoring, 6))
    with torch.no_grad():
        block = scoring.supernet.stages[1][1]
        block.conv2.weight.fill_(float("nan"))
    for trial, before in zip(promoted(scoring, first), first, strict=True):
        broken = trial.candidate.subnet.depths[1] == 2
        assert trial.state == (SCREENED if broken else FINISHED)
        assert ("must be finite" in (trial.reason or "")) is broken
        assert trial.screen_score == before.screen_score


def test_the_screening_score_is_leave_one_out_on_the_part_for_the_whole_objective() -> None:
    scoring = screened(make_scoring())
    assert scoring.screen is not None
    batch = proposals(scoring, 3)
    part = scoring.fitted.subset(scoring.screen.fitted_M)
    assert part.class_counts_K[2:].tolist() == [9, 1]
    for trial in run(scoring, batch):
        features_ND = features_of(scoring, trial.candidate, statistics_of(scoring, trial.candidate), part)
        results = leave_one_out(scoring.heads, features_ND, part.labels_N, 4, images_K=scoring.fitted.class_counts_K)
        counts_K = scoring.class_counts_K.numpy()
        best = max(
            measure(one.predicted_N.numpy(), part.labels_N.numpy(), counts_K).balanced_accuracy for one in results
        )
        assert trial.screen_score == pytest.approx(best, abs=1e-9)


def test_features_of_the_part_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = engine.sweep

    def watching(scoring: Scoring, tree: Any, swept: ImageSet, members: Any, **options: Any) -> Any:
        seen.append(len(swept))
        return original(scoring, tree, swept, members, **options)

    monkeypatch.setattr(engine, "sweep", watching)
    scoring = screened(make_scoring())
    assert scoring.screen is not None
    kept: Kept = {}
    part = len(scoring.screen.fitted_M)
    first = run(scoring, proposals(scoring, 5), kept=kept)
    assert seen == [part]
    promoted(scoring, first, kept=kept)
    assert seen == [part, sum(COUNTS) - part]
    assert "random" not in {trial.kind for trial in first}
    seen.clear()
    run(scoring, proposals(scoring, 1, "random"))
    assert seen == [part, sum(COUNTS) - part]


def test_the_ends_of_the_space_and_the_first_random_one_are_scored_in_full_at_once() -> None:
    scoring = screened(make_scoring())
    batch = proposals(scoring, 5, "random")
    kinds = ("smallest", "largest", "random", "random", "sampler")
    batch = [replace(proposal, kind=kind) for proposal, kind in zip(batch, kinds, strict=True)]
    trials = run(scoring, batch)
    assert [trial.state for trial in trials] == [FINISHED, FINISHED, FINISHED, SCREENED, SCREENED]
    assert all(trial.screen_score is not None for trial in trials)
    assert [trial.state for trial in run(scoring, batch[3:], trials[:3])] == [SCREENED, SCREENED]


def test_every_second_of_a_batch_is_charged_to_someone() -> None:
    scoring, clock = screened(make_scoring()), Ticks()
    start = clock()
    trials = run(scoring, proposals(scoring, 6), clock=clock)
    measured = clock() - start
    assert all(trial.seconds > 0 for trial in trials)
    # Every second look of this clock falls between two measurements.
    assert 0.4 * measured <= sum(trial.seconds for trial in trials) <= measured


def test_features_that_are_not_finite_fail_their_candidate_alone() -> None:
    scoring = make_scoring()
    batch = proposals(scoring, 12)
    with torch.no_grad():  # the largest kernels of the last stage, which only some of the candidates use
        block = scoring.supernet.stages[1][1]
        block.conv2.weight.fill_(float("nan"))
    trials = run(scoring, batch)
    for trial in trials:
        broken = trial.candidate.subnet.depths[1] == 2
        assert (trial.state == FAILED) is broken
        assert ("must be finite" in (trial.reason or "")) is broken
    assert {trial.state for trial in trials} == {FAILED, FINISHED}


def test_a_batch_that_does_not_fit_is_scored_one_by_one() -> None:
    scoring = make_scoring()
    batch = proposals(scoring, 8)
    expected = without_seconds(run(scoring, batch))
    # Enough for the calibration maps of any one candidate, not for those that a tree of them keeps.
    sizes = [4 * 32 * 6 * 64 * k / 2 / 2**20 for k in range(1, 40, 3)]
    found = [run(replace(scoring, memory_mib=mib), batch) for mib in sizes]
    assert without_seconds(found[-1]) == expected
    assert all(trial.state == FAILED for trial in found[0])
    assert "calibration_images" in str(found[0][0].reason)
    partly = [trials for trials in found if any(trial.state == FINISHED for trial in trials)]
    for trials in partly:
        for trial, wanted in zip(without_seconds(trials), expected, strict=True):
            assert trial.state == FAILED or trial == wanted


def test_features_beyond_the_memory_are_made_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    scoring = make_scoring(fitted=images((2400, 1200, 9, 2), 1))
    batch = proposals(scoring, 6)
    expected = without_seconds(run(scoring, batch))
    groups: list[int] = []
    original = engine.sweep

    def watching(scoring: Scoring, tree: Any, swept: ImageSet, members: Any, **options: Any) -> dict[int, Tensor]:
        groups.append(len(members))
        return original(scoring, tree, swept, members, **options)

    monkeypatch.setattr(engine, "sweep", watching)
    assert without_seconds(run(replace(scoring, memory_mib=0.5), batch)) == expected
    assert len(groups) > 1
    assert sum(groups) == 6


def test_seconds_of_a_batch_that_failed_are_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    scoring, clock = make_scoring(), Ticks()
    batch = proposals(scoring, 4)
    tree = engine.SubnetTree

    def failing(supernet: Any, requests: Any, *more: Any, **options: Any) -> Any:
        if len(requests) > 1:
            clock.now += 40.0
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
        return tree(supernet, requests, *more, **options)

    monkeypatch.setattr(engine, "SubnetTree", failing)
    trials = run(scoring, batch, clock=clock)
    assert all(trial.state == FINISHED and trial.seconds > 10.0 for trial in trials)


def test_a_screen_that_is_the_whole_hold_out_leaves_nothing_to_compute() -> None:
    scoring = make_scoring(validation=images((30, 20, 6, 4), 9))
    part_M = class_capped(scoring.fitted.labels_N, seed=0)
    assert part_M is not None
    whole = replace(scoring, screen=Screen(part_M, torch.arange(60), 3))
    kept: Kept = {}
    first = run(whole, proposals(scoring, 4), kept=kept)
    finished = [trial for trial in promoted(whole, first, kept=kept) if trial.state == FINISHED]
    assert finished
    for trial in finished:
        assert trial.score == pytest.approx(rank(scoring, trial.candidate).value, abs=1e-9)


def test_a_signal_between_two_units_ends_the_batch() -> None:
    def between() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make_scoring(), proposals(make_scoring(), 2), between=between)


def test_features_that_never_fit_are_streamed_to_the_same_score() -> None:
    scoring = make_scoring(fitted=images((2400, 1200, 9, 2), 1))
    batch = [proposal for proposal in proposals(scoring, 12) if proposal.candidate.subnet.taps == 2][:2]
    expected = run(scoring, batch)
    (small,) = {scoring.supernet.feature_dim(proposal.candidate.subnet) for proposal in batch[:1]}
    mib = 4 * len(scoring.fitted) * (small - 1) / 2**20
    calls = 0

    def between() -> None:
        nonlocal calls
        calls += 1

    with_memory, without = replace(scoring, memory_mib=100), replace(scoring, memory_mib=max(mib, 0.15))
    run(with_memory, batch[:1], between=between)
    once, calls = calls, 0
    (streamed,) = run(without, batch[:1], between=between)
    assert calls > once + len(scoring.fitted) // scoring.batch_size - 2  # a second pass through the network
    assert streamed.score == expected[0].score
    assert streamed.head == expected[0].head
    held_out = replace(without, validation=images((30, 20, 6, 4), 9))
    (refused,) = run(held_out, batch[:1])
    assert refused.state == FAILED
    assert "memory_mib" in str(refused.reason)
