"""Images and networks that benchmarks stand on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_run import tiny_config

from nasimb.bench.base import Conditions
from nasimb.bench.testbed import features_for_truth, load_testbed, true_accuracy
from nasimb.errors import InputError
from nasimb.search.trial import Candidate


def test_random_pixels_are_long_tailed_and_as_many_as_asked_for(quick: Callable[..., Conditions]) -> None:
    testbed = load_testbed(quick(images=300))
    counts_K = testbed.task.target.class_counts_K
    assert int(counts_K.sum()) == 300
    assert int(counts_K.min()) >= 2
    assert int(counts_K[0]) > 8 * int(counts_K[-1])
    assert not testbed.trained
    assert testbed.task.target.size == testbed.space.max_resolution
    assert testbed.fingerprint() == load_testbed(quick(images=300)).fingerprint()
    assert testbed.fingerprint() != load_testbed(quick(images=301)).fingerprint()


def test_too_few_images_are_refused(quick: Callable[..., Conditions]) -> None:
    with pytest.raises(InputError, match="40 or more"):
        load_testbed(quick(images=20))


def test_digits_stand_in_where_content_matters_and_every_class_keeps_its_share(quick, tmp_path) -> None:
    whole = load_testbed(quick(images=10_000), content=True).task.target.class_counts_K
    part = load_testbed(quick(images=60), content=True).task.target.class_counts_K
    share = (60 / whole.sum()).item()
    wanted = torch.maximum(whole.clamp(max=2), (whole * share).round().long())
    assert torch.equal(part, wanted)
    assert 50 < int(part.sum()) < 70 < int(whole.sum())


def test_the_target_itself_as_source_still_ranks_by_leave_one_out_because_fresh_weights_have_seen_nothing(
    quick: Callable[..., Conditions], tmp_path
) -> None:
    testbed = load_testbed(quick(config=tiny_config(tmp_path, source="target"), synthetic=False, images=None))
    assert testbed.scoring.validation is None
    assert testbed.task.source is testbed.task.target


def test_a_draw_is_another_part_of_a_target_that_is_taken_as_it_is(quick, tmp_path) -> None:
    config = tiny_config(tmp_path).model_copy(update={"imbalance_factor": None})
    conditions = quick(config=config, synthetic=False, images=10_000)
    draws = [load_testbed(conditions, draw=draw).task.target for draw in (0, 1)]
    assert len(draws[0]) == len(draws[1])
    assert draws[0].fingerprint() != draws[1].fingerprint()


def test_subnets_are_the_same_for_everyone_and_median_lies_between(quick: Callable[..., Conditions]) -> None:
    testbed = load_testbed(quick())
    assert testbed.random_subnets(5) == load_testbed(quick(images=80)).random_subnets(5)
    assert len(set(testbed.random_subnets(5))) == 5
    macs = [testbed.scoring.cost_of(subnet)[0] for subnet in testbed.named_subnets.values()]
    assert macs == sorted(macs)
    assert list(testbed.named_subnets) == ["smallest", "median", "largest"]


def test_the_truth_is_the_test_accuracy_of_a_head_that_learns(quick: Callable[..., Conditions]) -> None:
    testbed = load_testbed(quick(), content=True)
    features_ND, test_MD = features_for_truth(testbed, Candidate(testbed.space.largest(), "source"))
    assert len(features_ND) == len(testbed.task.target)
    assert len(test_MD) == len(testbed.task.test)
    accuracy = true_accuracy(testbed, features_ND, test_MD)
    assert 0.3 < accuracy <= 1.0
    shuffled = features_ND[torch.randperm(len(features_ND), generator=torch.Generator().manual_seed(0))]
    assert true_accuracy(testbed, shuffled, test_MD) < accuracy - 0.1
