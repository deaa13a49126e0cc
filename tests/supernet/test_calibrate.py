"""Calibration is exact, pure, and the same in every order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nasimb.data.base import ImageSet
from nasimb.errors import InputError
from nasimb.nn import moments
from nasimb.nn.moments import Statistics
from nasimb.space import SearchSpace
from nasimb.supernet.base import Supernet
from nasimb.supernet.calibrate import CALIBRATIONS, calibrate, calibration_images

NewSupernet = Callable[..., Supernet]
CPU = torch.device("cpu")


def pixels(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def same(first: Statistics, second: Statistics) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[key].mean_C, second[key].mean_C) and torch.equal(first[key].var_C, second[key].var_C)
        for key in first
    )


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    return torch.bincount(
        torch.tensor([int(images.labels_N[by_pixels[image.numpy().tobytes()]]) for image in shown]), minlength=3
    ).tolist()


def test_policies_show_their_images_in_their_shares(images: ImageSet) -> None:
    source = images.subset(torch.tensor([0, 1, 2, 12, 13, 14, 21, 22, 23]))
    shown = {
        policy: labels_shown(images, calibration_images(policy, source, images, seed=0, device=CPU, limit=18))
        for policy in CALIBRATIONS
    }
    assert shown == {"source": [3, 3, 3], "target-natural": [8, 6, 4], "target-balanced": [6, 6, 6]}


def test_a_class_too_small_for_its_share_repeats_its_images(images: ImageSet) -> None:
    shown = calibration_images("target-balanced", images, images, seed=0, device=CPU)
    assert labels_shown(images, shown) == [9, 9, 9]
    assert len({image.numpy().tobytes() for image in shown}) == 9 + 9 + 6


def test_calibration_images_are_fixed_by_the_seed(images: ImageSet) -> None:
    first, again, other = (
        calibration_images("source", images, images, seed=seed, device=CPU, limit=9) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_unknown_policy_is_refused_in_a_sentence(images: ImageSet) -> None:
    with pytest.raises(InputError, match="Did you mean 'target-balanced'"):
        calibration_images("target-balance", images, images, seed=0, device=CPU)
