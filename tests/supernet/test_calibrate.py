"""Calibration is exact, pure, and the same in every order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nasimb.data.base import ImageSet
from nasimb.errors import InputError
from nasimb.nn import moments
from nasimb.nn.mixing import Sampled, mixing_weight, variance_weight
from nasimb.nn.moments import Statistics
from nasimb.space import SearchSpace, Stage
from nasimb.supernet import build_supernet
from nasimb.supernet.base import Supernet
from nasimb.supernet.calibrate import (
    CALIBRATIONS,
    TARGET_DRAW,
    Calibration,
    calibrate,
    calibration_positions,
    check_target,
    images_that_pass,
    inherited_statistics,
    make_calibrations,
    source_images,
)

NewSupernet = Callable[..., Supernet]
CPU = torch.device("cpu")
ONE_STAGE = Stage(depths=(1,), widths=(4,))
function_scoped = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pixels(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def same(first: Statistics, second: Statistics) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[key].mean_C, second[key].mean_C) and torch.equal(first[key].var_C, second[key].var_C)
        for key in first
    )


@function_scoped
@given(seed=st.integers(0, 1000))
def test_statistics_are_what_torch_collects_in_train_mode(
    new_supernet: NewSupernet, space: SearchSpace, seed: int
) -> None:
    """One pass of nn.BatchNorm2d with momentum None, whose running variance is the unbiased one."""
    supernet, subnet = new_supernet(seed), space.sample(np.random.default_rng(seed))
    images_BCHW = pixels(10, seed)
    extracted = supernet.extract(subnet, calibrate(supernet, subnet, images_BCHW))
    torchs = supernet.extract(subnet, None).train()
    inputs_per_channel: dict[str, int] = {}
    for name, layer in torchs.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
            layer.register_forward_pre_hook(
                lambda layer, args, name=name: inputs_per_channel.update({name: args[0].numel() // args[0].shape[1]})
            )
    with torch.no_grad():
        torchs(images_BCHW)
    assert inputs_per_channel
    for name, count in inputs_per_channel.items():
        ours, theirs = extracted.get_submodule(name), torchs.get_submodule(name)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.running_var, theirs.running_var * (count - 1) / count, rtol=1e-4, atol=1e-4)


def test_calibrating_again_or_after_others_gives_the_same_bits(new_supernet: NewSupernet, space: SearchSpace) -> None:
    supernet, images_BCHW = new_supernet(), pixels(12)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    rng = np.random.default_rng(0)
    subnets = [space.sample(rng) for _ in range(4)]
    forwards = [calibrate(supernet, subnet, images_BCHW) for subnet in subnets]
    supernet.train()
    backwards = [calibrate(supernet, subnet, images_BCHW) for subnet in reversed(subnets)][::-1]
    assert all(same(first, second) for first, second in zip(forwards, backwards, strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_calibrated_layers_give_standardised_maps_on_the_calibration_images(
    new_supernet: NewSupernet, space: SearchSpace
) -> None:
    """What was recorded layer by layer is consistent: used together, it normalises the same images exactly."""
    supernet, subnet, images_BCHW = new_supernet(), space.largest(), pixels(12)
    statistics, again = calibrate(supernet, subnet, images_BCHW), {}
    with torch.no_grad():
        supernet.features(images_BCHW, subnet, moments.given(statistics))

        def watch(key: str, x_BCHW: Tensor) -> moments.Moments:
            again[key] = moments.moments(x_BCHW)
            return statistics[key]

        supernet.features(images_BCHW, subnet, watch)
    assert same(statistics, again)


def test_calibration_needs_no_gradients(new_supernet: NewSupernet, space: SearchSpace) -> None:
    statistics = calibrate(new_supernet(), space.largest(), pixels(6))
    assert not any(found.mean_C.requires_grad or found.var_C.requires_grad for found in statistics.values())


def labels_shown(images: ImageSet, shown: Tensor) -> list[int]:
    by_pixels = {images.store.read(torch.tensor([i]), CPU)[0].numpy().tobytes(): i for i in range(len(images))}
    labels = [int(images.labels_N[by_pixels[image.numpy().tobytes()]]) for image in shown]
    return torch.bincount(torch.tensor(labels, dtype=torch.long), minlength=3).tolist()


def made(policies: Sequence[str], source: ImageSet, target: ImageSet, limit: int = 18) -> dict[str, Calibration]:
    space = SearchSpace(name="one", backbone="resnet", stem_width=4, resolutions=(8,), stages=(ONE_STAGE,))
    supernet = build_supernet(space, 1, 3, torch.zeros(1), torch.ones(1), torch.Generator().manual_seed(0))
    source_BCHW = source_images(source, seed=0, device=CPU, limit=limit)
    return make_calibrations(policies, supernet, source_BCHW, target, seed=0, device=CPU, limit=limit)


def test_policies_show_their_images_in_their_shares(images: ImageSet) -> None:
    source = images.subset(torch.tensor([0, 1, 2, 12, 13, 14, 21, 22, 23]))
    found = made(list(CALIBRATIONS), source, images)
    shown = {
        name: (labels_shown(images, one.source_BCHW), labels_shown(images, one.target_BCHW))
        for name, one in found.items()
    }
    nothing, even, natural = [0, 0, 0], [3, 3, 3], [8, 6, 4]
    assert {name: shown[name] for name in ("source", "target-natural", "target-balanced", "mixed", "update")} == {
        "source": (even, nothing), "target-natural": (nothing, natural), "target-balanced": (nothing, [6, 6, 6]),
        "mixed": (even, [6, 6, 6]), "update": (even, natural),
    }  # fmt: skip
    assert {name: len(found[name]) for name in ("inherit", "reset")} == {"inherit": 1, "reset": 1}
    assert {name: images_that_pass([name], 18) for name in ("source", "target-natural", "mixed", "reset")} == {
        "source": 18, "target-natural": 18, "mixed": 36, "reset": 18,
    }  # fmt: skip
    assert images_that_pass(["source", "update"], 10) == 20


def test_a_class_too_small_for_its_share_repeats_its_images_which_are_worth_less(images: ImageSet) -> None:
    found = made(["target-balanced"], images, images, limit=1024)["target-balanced"]
    assert labels_shown(images, found.target_BCHW) == [9, 9, 9]
    assert len({image.numpy().tobytes() for image in found.target_BCHW}) == 9 + 9 + 6
    # Kish: 27 draws of 21 images once and 3 twice.
    assert found.target_worth == 27**2 // (21 + 3 * 4)
    assert made(["mixed"], images, images, limit=1024)["mixed"].target_worth == found.target_worth
    natural = made(["target-natural"], images, images, limit=1024)["target-natural"]
    assert natural.target_worth == len({image.numpy().tobytes() for image in natural.target_BCHW}) == 27


def test_both_sides_of_one_set_are_draws_of_their_own(images: ImageSet) -> None:
    """Of a super-network trained on the target: mixed would be the source itself, its weights that of no shift."""
    found = made(["source", "target-balanced", "mixed"], images, images, limit=9)
    mixed, space = found["mixed"], SearchSpace(
        name="one", backbone="resnet", stem_width=4, resolutions=(8,), stages=(ONE_STAGE,)
    )  # fmt: skip
    assert torch.equal(mixed.source_BCHW, found["source"].source_BCHW)
    assert torch.equal(mixed.target_BCHW, found["target-balanced"].target_BCHW)
    shown = [{image.numpy().tobytes() for image in side} for side in (mixed.source_BCHW, mixed.target_BCHW)]
    assert shown[0] != shown[1]
    supernet = build_supernet(space, 1, 3, torch.zeros(1), torch.ones(1), torch.Generator().manual_seed(0))
    subnet = space.largest()
    assert not same(calibrate(supernet, subnet, mixed), calibrate(supernet, subnet, found["source"]))


@pytest.mark.parametrize(("batch", "seen"), [(4, [4, 4]), (9, [9]), (10, [10]), (11, [10])])
def test_update_sees_whole_batches_alone(
    images: ImageSet, batch: int, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CALIBRATIONS, "update", replace(CALIBRATIONS["update"], batch=batch))
    update, supernet = made(["update"], images, images, limit=10)["update"], cast(Supernet, SimpleNamespace())
    assert [len(part) for part in update.parts(supernet, 10)[1:]] == seen
    assert (len(update.target_BCHW), update.target_worth) == (sum(seen), sum(seen))
    less = [len(part) for part in update.limited(7).parts(supernet, 7)[1:]]
    assert less == ([4] if batch == 4 else [7])


@pytest.mark.parametrize(("positions", "limit"), [([0, 1, 12], 1), ([0, 21, 22], 3)])
def test_too_little_to_mix_is_refused_without_a_super_network(
    images: ImageSet, positions: list[int], limit: int
) -> None:
    """One image alone; or two classes, the single image of one drawn twice: 9 // 5."""
    target = images.subset(torch.tensor(positions))
    seed = next(seed for seed in range(9) if limit == 1 or _first_is_twice(target, seed))
    with pytest.raises(InputError, match=r"mixed needs 2 independent images of the target; got . drawn, of 3"):
        check_target(["source", "mixed"], lambda: target, seed=seed, limit=limit)
    check_target(["source", "target-balanced", "update"], lambda: target, seed=seed, limit=limit)
    check_target(["mixed"], lambda: images, seed=seed, limit=2)


def _first_is_twice(target: ImageSet, seed: int) -> bool:
    positions_B = calibration_positions(target, "balanced", seed=seed, limit=3, key=TARGET_DRAW)
    return positions_B.tolist().count(0) == 2


def test_calibration_images_are_fixed_by_the_seed(images: ImageSet) -> None:
    first, again, other = (source_images(images, seed=seed, device=CPU, limit=9) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_unknown_policy_is_refused_in_a_sentence(images: ImageSet) -> None:
    with pytest.raises(InputError, match="Did you mean 'target-balanced'"):
        made(["target-balance"], images, images)


def under(policy: str, source_BCHW: Tensor, target_BCHW: Tensor, **changes: Any) -> Calibration:
    return Calibration(replace(CALIBRATIONS[policy], **changes), source_BCHW, target_BCHW, len(target_BCHW))


def brighter(images_BCHW: Tensor) -> Tensor:
    return (images_BCHW // 2 + 120).to(torch.uint8)


@function_scoped
@given(seed=st.integers(0, 1000))
def test_mixed_statistics_are_those_of_a_plain_network_whose_norms_are_set_one_after_the_other(
    new_supernet: NewSupernet, space: SearchSpace, seed: int
) -> None:
    """Every nn.BatchNorm2d gets its mixture, by numpy, from the inputs that those before it leave."""
    supernet, subnet = new_supernet(seed), space.sample(np.random.default_rng(seed))
    source_BCHW, target_BCHW = pixels(9, seed), brighter(pixels(6, seed + 1))
    found = supernet.extract(subnet, calibrate(supernet, subnet, under("mixed", source_BCHW, target_BCHW)))
    plain = supernet.extract(subnet, None)
    weights = []

    def mix(layer: nn.BatchNorm2d, args: tuple[Tensor, ...]) -> None:
        x_BCHW = args[0].double().numpy()
        source, target = x_BCHW[:9], x_BCHW[9:]
        mean = {0: source.mean((0, 2, 3)), 1: target.mean((0, 2, 3))}
        var = {0: source.var((0, 2, 3)), 1: target.var((0, 2, 3))}
        both = [moments.Moments(torch.tensor(mean[side]).float(), torch.tensor(var[side]).float()) for side in (0, 1)]
        noise_C = torch.tensor(target.mean((2, 3)).var(0, ddof=1) / 6).float()
        squares = ((target - mean[1][:, None, None]) ** 2).mean((2, 3))
        sample = Sampled(both[1], noise_C, torch.tensor(squares.var(0, ddof=1) / 6).float(), 6)
        weight, spread = float(mixing_weight(both[0], sample, 9)), float(variance_weight(both[0], sample, 9))
        weights.append(weight)
        between = weight * (1 - weight) * (mean[0] - mean[1]) ** 2
        layer.running_mean.copy_(torch.tensor((1 - weight) * mean[0] + weight * mean[1]))
        layer.running_var.copy_(torch.tensor((1 - spread) * var[0] + spread * var[1] + between))

    for layer in plain.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(mix)
    with torch.no_grad():
        plain(torch.cat([source_BCHW, target_BCHW]))
    assert weights
    assert max(weights) > 0.5, "the target is much brighter"
    for name, layer in plain.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            ours = found.get_submodule(name)
            torch.testing.assert_close(ours.running_mean, layer.running_mean, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(ours.running_var, layer.running_var, rtol=1e-3, atol=1e-3)


@function_scoped
@given(seed=st.integers(0, 1000))
def test_updated_statistics_are_what_torch_leaves_in_train_mode(
    new_supernet: NewSupernet, space: SearchSpace, seed: int
) -> None:
    """Two batches of four through nn.BatchNorm2d with momentum 0.1, which adds up unbiased variances."""
    supernet, subnet = new_supernet(seed), space.sample(np.random.default_rng(seed))
    source_BCHW, target_BCHW = pixels(9, seed), brighter(pixels(8, seed + 1))
    sourced = calibrate(supernet, subnet, source_BCHW)
    found = supernet.extract(subnet, calibrate(supernet, subnet, under("update", source_BCHW, target_BCHW, batch=4)))
    begun, torchs = supernet.extract(subnet, sourced), supernet.extract(subnet, sourced).train()
    values: dict[str, int] = {}
    for name, layer in torchs.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1
            layer.register_forward_pre_hook(
                lambda layer, args, name=name: values.update({name: args[0].numel() // args[0].shape[1]})
            )
    with torch.no_grad():
        for batch_BCHW in torch.split(target_BCHW, 4):
            torchs(batch_BCHW)
    assert values
    for name, count in values.items():
        ours, theirs, start = (net.get_submodule(name) for net in (found, torchs, begun))
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-4, atol=1e-4)
        of_start = 0.9**2 * start.running_var
        expected = of_start + (theirs.running_var - of_start) * (count - 1) / count
        torch.testing.assert_close(ours.running_var, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(ours.running_mean, start.running_mean)


def test_inherited_statistics_are_the_leading_channels_of_the_largest_subnets(
    new_supernet: NewSupernet, space: SearchSpace
) -> None:
    supernet, images_BCHW = new_supernet(), pixels(12)
    whole = calibrate(supernet, space.largest(), images_BCHW)
    kept = inherited_statistics(supernet, images_BCHW)
    assert same(kept, whole)
    calibration = replace(under("inherit", images_BCHW[:1], images_BCHW[:0]), inherited=kept)
    subnet = space.smallest()
    found = calibrate(supernet, subnet, calibration)
    narrower = 0
    for key, one in found.items():
        channels = len(one.mean_C)
        narrower += channels < len(whole[key].mean_C)
        assert torch.equal(one.mean_C, whole[key].mean_C[:channels])
        assert torch.equal(one.var_C, whole[key].var_C[:channels])
    assert narrower
    assert not same(found, calibrate(supernet, subnet, images_BCHW))


def test_what_the_largest_subnets_norms_do_not_need_is_inherited_from_another_norm(new_supernet: NewSupernet) -> None:
    stages = (Stage(depths=(1,), widths=(4,), norms=("gn", "bn")), Stage(depths=(1,), widths=(4,), norms=("gn", "gn1")))
    space = SearchSpace(
        name="two", backbone="resnet", stem_width=4, resolutions=(8,), stages=stages,
        norm_options=(("gn1", (("group_size", 4), ("name", "gn"))),),
    )  # fmt: skip
    supernet = new_supernet(space=space)
    kept = inherited_statistics(supernet, pixels(6))
    alone = calibrate(supernet, space.largest(), pixels(6))
    assert kept.keys() - alone.keys() == {"stage1.block1.norm2", "stage1.block1.shortcut_norm"}
    assert same({key: kept[key] for key in alone}, alone)
    for norm in ("gn", "bn"):
        subnet = replace(space.largest(), norms=(norm, "gn"))
        assert calibrate(supernet, subnet, replace(under("inherit", pixels(1), pixels(0)), inherited=kept))


def test_reset_statistics_are_those_of_a_fresh_network(new_supernet: NewSupernet, space: SearchSpace) -> None:
    supernet, subnet = new_supernet(), space.smallest()
    found = supernet.extract(subnet, calibrate(supernet, subnet, under("reset", pixels(1), pixels(0))))
    images_BCHW = pixels(5, 3)
    with torch.no_grad():
        torch.testing.assert_close(found(images_BCHW), supernet.extract(subnet, None)(images_BCHW), rtol=0, atol=0)


def test_only_update_depends_on_its_batches_and_these_do_not_follow_the_memory(
    new_supernet: NewSupernet, space: SearchSpace
) -> None:
    supernet = new_supernet()
    source_BCHW, target_BCHW = pixels(6), pixels(10, 1)
    update = under("update", source_BCHW, target_BCHW, batch=4)
    assert [len(part) for part in update.parts(supernet, 2)] == [2, 2, 2, 4, 4, 2]
    mixed = under("mixed", source_BCHW, target_BCHW)
    assert [len(part) for part in mixed.parts(supernet, 4)] == [4, 2, 4, 4, 2]
    small = [4, 2]
    assert [len(part) for part in mixed.limited(3).parts(supernet, 4)] == [3, 3]
    assert (len(mixed), len(mixed.limited(3)), mixed.limited(3).target_worth) == (16, 6, 3)
    for calibration in (mixed, under("source", source_BCHW, target_BCHW[:0])):
        ways = []
        for most in small:
            found, parts = {}, calibration.parts(supernet, most)
            with torch.no_grad():
                for step in supernet.steps(space.largest()):
                    settled, parts = supernet.settle(step, parts, calibration.estimator)
                    found.update(settled)
            ways.append(found)
        for key in ways[0]:
            torch.testing.assert_close(ways[0][key].mean_C, ways[1][key].mean_C, rtol=1e-4, atol=1e-4)
