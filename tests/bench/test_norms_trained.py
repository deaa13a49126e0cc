"""Full training of the arms: what differs between their networks, where the bias goes, and one quick comparison."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nasimb.bench import norms, norms_trained
from nasimb.bench.base import Conditions
from nasimb.bench.norms import ARMS, BASELINE
from nasimb.bench.norms_trained import Watched, plain_network, steps_for, train, watched_bias
from nasimb.nn.norms.nbn import NormalisedBatchNorm2d

NBN_ARMS = tuple(arm for arm in ARMS if arm != BASELINE)


@pytest.fixture
def digits(quick: Callable[..., Conditions]):
    conditions = quick(clock=time.perf_counter)
    return conditions, norms.prepared(conditions)[1]


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in network.state_dict().items() if tensor.ndim > 1}


@pytest.mark.parametrize("arm", NBN_ARMS)
def test_only_the_last_norms_of_the_last_stage_differ(digits, arm: str) -> None:
    _, ground = digits
    plain, ours = (plain_network(ground.space, name, ground.task, 3) for name in (BASELINE, arm))
    assert not [layer for layer in plain.modules() if isinstance(layer, NormalisedBatchNorm2d)]
    changed = [name for name, layer in ours.named_modules() if isinstance(layer, NormalisedBatchNorm2d)]
    assert changed == ["0.stages.1.0.norm2", "0.stages.1.0.shortcut.1"]
    scalars = [name for name, _ in ours.named_parameters() if name.endswith(".scale")]
    assert len(scalars) == (2 if arm == "nbn_default" else 1)  # a shared one is a parameter once
    counts = [sum(p.numel() for p in network.parameters()) for network in (plain, ours)]
    assert counts[1] - counts[0] == len(scalars)
    before, after = weights_of(plain), weights_of(ours)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_seeds_start_from_other_weights(digits) -> None:
    _, ground = digits
    one, other = (weights_of(plain_network(ground.space, BASELINE, ground.task, seed)) for seed in (0, 1))
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_the_published_bias_is_thrown_out_and_hardly_turns(digits) -> None:
    conditions, ground = digits
    watched = {arm: train(conditions, ground, arm, 0, 12, 0.0)[1] for arm in ARMS}
    published, weight_only = watched["nbn_published"], watched["nbn_weight_only"]
    # One step from zero: a slope of a million.
    assert published.first_length / weight_only.first_length == pytest.approx(1e6, rel=1e-2)
    assert published.cosine is not None
    assert published.cosine > 0.999
    assert weight_only.cosine is not None
    assert weight_only.cosine < published.cosine
    assert watched["nbn_random_beta"].first_length == pytest.approx(1.0, abs=0.01)
    assert watched[BASELINE].scale is None
    assert published.scale is not None
    assert published.scale != 1.0


def test_what_is_kept_of_a_bias() -> None:
    first_C, last_C = torch.tensor([3.0, 0.0]), torch.tensor([3.0, 4.0])
    assert watched_bias(first_C, last_C, torch.tensor(2.0)) == Watched(3.0, 5.0, pytest.approx(0.6), 2.0)
    assert watched_bias(torch.zeros(2), last_C, None) == Watched(0.0, 5.0, None, None)


def test_steps_show_so_many_images_but_none_too_often() -> None:
    assert steps_for(12_406) == 60_000 // 64
    assert steps_for(200) == 100 * 200 // 64
    assert steps_for(1) == 1


def test_training_learns(digits) -> None:
    conditions, ground = digits
    # As good a test set as any here: the question is whether losses fall, not how well it does on others.
    task = replace(ground.task, test=ground.task.target)
    for arm in (BASELINE, "nbn_default"):
        network, _ = train(conditions, ground, arm, 0, 150, 0.0)
        found = norms_trained.tested(network, task, conditions.device)
        assert found["balanced_accuracy"] > 0.3  # a tenth by chance


def test_rows_of_two_arms_and_resumed_rows_are_equal(
    quick: Callable[..., Conditions], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (norms, norms_trained):
        monkeypatch.setattr(module, "ARMS", {arm: ARMS[arm] for arm in (BASELINE, "nbn_published")})
    monkeypatch.setattr(norms, "QUICK_SEEDS", 2)
    conditions = quick(folder=tmp_path)
    found = {figure.figure: figure for figure in norms_trained.norms_trained(conditions)}
    difference = found["trained_balanced_accuracy_nbn_published_minus_bn"]
    assert difference.repetitions == 2
    assert "2 pairs where 3 are needed" in str(difference.detail["verdict"])
    assert found["beta_turn_nbn_published"].detail["first_length"] > 1e3 * found["beta_turn_bn"].detail["first_length"]
    file = tmp_path / norms_trained.FILE
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 5
    file.write_text("".join(lines[:2]) + lines[2][:40])  # killed while the third line was written
    again = {figure.figure: figure for figure in norms_trained.norms_trained(conditions)}
    assert file.read_text() == whole  # the clock of the test stands still
    assert again == found
