"""Candidates against a plain forward pass, and a batch against its members one by one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from nasimb.bench import candidate, sgd
from nasimb.bench.base import Conditions
from nasimb.bench.testbed import load_testbed
from nasimb.errors import WorkError
from nasimb.search.candidate import rank
from nasimb.search.limits import Limits
from nasimb.search.study import Question
from nasimb.search.trial import Candidate


@pytest.fixture
def ticking(quick: Callable[..., Conditions]) -> Conditions:
    return quick(clock=time.perf_counter)


def test_every_named_subnet_and_the_median_of_random_ones_is_reported(ticking: Conditions) -> None:
    found = {figure.figure: figure for figure in candidate.candidate_over_forward(ticking)}
    names = [f"candidate_over_forward_{name}" for name in ("smallest", "median", "largest")]
    assert list(found) == [*names, "candidate_over_forward"]
    assert all(figure.value > 0 for figure in found.values())
    assert {figure.target for figure in found.values()} == {"<= 1.25"}
    assert "quartiles over 2 random subnets" in found["candidate_over_forward"].against
    scoring_batch_size = load_testbed(ticking).scoring.batch_size
    assert found[names[0]].detail["forward_batch_size"] in {*candidate.BATCH_SIZES, scoring_batch_size}
    assert found[names[0]].detail["target_images"] == 60


def test_the_plain_forward_sees_every_target_and_every_calibration_image(ticking: Conditions) -> None:
    testbed = load_testbed(ticking)
    seen: list[int] = []
    candidate.plain_forward(testbed, lambda images_BCHW: seen.append(len(images_BCHW)), 32)
    assert sum(seen) == len(testbed.task.target) + len(testbed.calibration_BCHW)
    assert max(seen) == 32


def test_a_score_here_is_the_score_of_a_search(ticking: Conditions) -> None:
    testbed = load_testbed(ticking)
    asked = candidate.proposal(testbed, Candidate(testbed.space.largest(), testbed.calibration))
    (trial,) = candidate.score(candidate.whole(testbed.scoring), [asked], ticking)
    assert trial.score == rank(testbed.scoring, asked.candidate).value


def test_a_batch_of_the_evolution_has_as_many_candidates_as_asked_for_all_different(ticking: Conditions) -> None:
    batch = candidate.evolved(load_testbed(ticking), 12)
    assert len({asked.candidate for asked in batch}) == 12
    assert {asked.kind for asked in batch} == {"sampler"}


def test_the_tree_is_compared_with_its_members_alone(ticking: Conditions) -> None:
    (figure,) = candidate.tree_over_single(ticking)
    assert figure.value > 0
    assert figure.detail["candidates"] == candidate.QUICK_BATCH
    assert 0 <= figure.detail["steps_shared"] < 1
    (figure,) = candidate.tree_over_single_16(ticking)
    assert (figure.figure, figure.target) == ("tree_over_single_16", "")
    assert figure.detail["candidates"] == candidate.QUICK_SEARCH_BATCH


def test_the_smaller_batch_is_that_of_a_search(ticking: Conditions) -> None:
    testbed = load_testbed(ticking)
    question = Question(testbed.space, (testbed.calibration,), Limits(), "evolution", None, 0)
    assert question.batch_size == candidate.SEARCH_BATCH


def test_a_candidate_that_failed_is_not_a_quick_one(ticking: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*given: object, **named: object) -> None:
        raise WorkError("memory must suffice", got="none", do="Give it some.")

    monkeypatch.setattr("nasimb.search.engine.SubnetTree", no_memory)
    for measure in (candidate.candidate_over_forward, candidate.tree_over_single, sgd.score_over_sgd):
        with pytest.raises(WorkError, match=r"scored on all images.*failed.*memory must suffice"):
            list(measure(ticking))


def test_a_score_that_depends_on_company_is_an_error(ticking: Conditions) -> None:
    testbed = load_testbed(ticking)
    asked = candidate.proposal(testbed, Candidate(testbed.space.largest(), testbed.calibration))
    (trial,) = candidate.score(testbed.scoring, [asked], ticking)
    candidate.check_identical([trial], [trial])
    with pytest.raises(WorkError, match="score that it has alone"):
        candidate.check_identical([trial], [replace(trial, score=trial.score + 1e-12)])
    with pytest.raises(WorkError, match="failed"):
        candidate.check_identical([trial], [replace(trial, state="failed", reason="NaN")])


def test_the_score_is_compared_with_sgd_through_the_network(ticking: Conditions) -> None:
    (figure,) = sgd.score_over_sgd(ticking)
    assert figure.target == ">= 7"
    assert figure.value == pytest.approx(figure.detail["sgd_seconds"] / figure.detail["score_seconds"], rel=0.5)
