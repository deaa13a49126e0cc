"""Statistics of one layer: against numpy, and where the weight of a mixture must go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nasimb.errors import InputError
from nasimb.nn.estimators import Estimator, Kept, Mixed, Pooled, Running, Settled
from nasimb.nn.mixing import (
    Sampled,
    mixed,
    mixing_weight,
    repeated,
    sampled,
    sampled_images,
    squares_around,
    variance_weight,
)
from nasimb.nn.moments import Moments, moments

CHANNELS = 64


def maps(images: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    """Rectified, and pixels of an image resemble each other; moved by so many standard deviations."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(images, CHANNELS, 1, 1, generator=generator)
    x_BCHW = (0.7 * common + 0.7 * torch.randn(images, CHANNELS, 4, 4, generator=generator)).relu()
    return scale * (x_BCHW + shift * float(x_BCHW.std()))


def shown(estimator: Estimator, parts: Sequence[Tensor]) -> Settled:
    for part in parts:
        before = part.clone()
        estimator.see(part)
        assert torch.equal(part, before)
    return estimator.settled()


def close(found: Moments, x_BCHW: Tensor) -> None:
    x = x_BCHW.double().numpy()
    np.testing.assert_allclose(found.mean_C.numpy(), x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.var_C.numpy(), x.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_pooled_moments_are_those_of_all_images_and_every_part_normalises_with_them() -> None:
    x_BCHW = maps(11, 0)
    found = shown(Pooled(), torch.split(x_BCHW, 4))
    close(found.statistics, x_BCHW)
    assert found.of_parts == [found.statistics] * 3


def test_kept_moments_lose_the_channels_that_are_not_there() -> None:
    kept = Moments(torch.arange(70.0), torch.arange(70.0) + 1)
    found = shown(Kept(kept), [maps(2, 0), maps(3, 1)])
    assert torch.equal(found.statistics.mean_C, torch.arange(64.0))
    assert torch.equal(found.statistics.var_C, torch.arange(64.0) + 1)
    assert len(found.of_parts) == 2
    none = shown(Kept(None), [maps(2, 0)]).statistics
    assert torch.equal(none.mean_C, torch.zeros(CHANNELS))
    assert torch.equal(none.var_C, torch.ones(CHANNELS))


@given(seed=st.integers(0, 10_000), length=st.integers(1, 7), shift=st.floats(-2, 2))
def test_a_mixture_is_that_of_its_weight_however_the_images_are_parted(seed: int, length: int, shift: float) -> None:
    source, target = maps(9, seed), maps(7, seed + 1, shift)
    parts = [*torch.split(source, 4), *torch.split(target, length)]
    found = shown(Mixed(9), parts)
    weight = float(mixing_weight(moments(source), sampled(target), 9))
    spread = float(variance_weight(moments(source), sampled(target), 9))
    of_source, of_target = (x.double().numpy() for x in (source, target))
    means = [x.mean((0, 2, 3)) for x in (of_source, of_target)]
    mean = (1 - weight) * means[0] + weight * means[1]
    within = (1 - spread) * of_source.var((0, 2, 3)) + spread * of_target.var((0, 2, 3))
    between = weight * (1 - weight) * (means[0] - means[1]) ** 2
    np.testing.assert_allclose(found.statistics.mean_C, mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.statistics.var_C, within + between, rtol=1e-3, atol=1e-4)
    assert found.of_parts == [found.statistics] * len(parts)


def weight_of(found: Settled, source: Tensor, target: Tensor) -> float:
    """Which share of the way from the source's means to the target's the statistics have gone."""
    start, way = moments(source).mean_C, moments(target).mean_C - moments(source).mean_C
    return float((found.statistics.mean_C - start) @ way / (way @ way))


@given(seed=st.integers(0, 10_000))
def test_where_source_and_target_are_of_one_kind_the_source_stays(seed: int) -> None:
    source, target = maps(400, seed), maps(16, seed + 1)
    assert weight_of(shown(Mixed(400), [source, target]), source, target) < 0.5
    same = shown(Mixed(400), [source, source[:16]])
    assert weight_of(same, source, source[:16]) < 0.5


@given(seed=st.integers(0, 10_000), shift=st.sampled_from([-1000.0, -30.0, 30.0, 1000.0]))
def test_where_they_are_worlds_apart_the_target_does(seed: int, shift: float) -> None:
    source, target = maps(40, seed), maps(16, seed + 1, shift)
    found = shown(Mixed(40), [source, target])
    assert weight_of(found, source, target) > 0.999
    standardised = (target - found.statistics.mean_C[:, None, None]) / found.statistics.var_C.sqrt()[:, None, None]
    assert float(standardised.mean().abs()) < 0.3
    assert 0.5 < float(standardised.var()) < 1.5


def test_images_of_less_worth_weigh_less() -> None:
    source, target = maps(60, 0), maps(24, 1, 0.3)
    whole, less = (weight_of(shown(Mixed(60, worth), [source, target]), source, target) for worth in (24, 6))
    assert weight_of(shown(Mixed(60), [source, target]), source, target) == whole
    assert less < whole - 0.05


@pytest.mark.parametrize("copies", [(1, 1, 1, 1), (2, 2, 2), (3, 1, 1, 1), (6, 2, 2, 2)])
def test_what_copies_say_of_the_noise_is_right_on_average(copies: tuple[int, ...]) -> None:
    """Monte Carlo: how far means and mean squares of draws with these copies really scatter, channel by channel."""
    worth = sum(copies) ** 2 // sum(count**2 for count in copies)
    assert worth * sum(count**2 for count in copies) == sum(copies) ** 2, "nothing is rounded"
    runs, generator = 200_000, torch.Generator().manual_seed(0)
    # Every channel is a draw of its own; an image is one pixel, so that its mean is its value.
    x_BCHW = torch.randn(len(copies), runs, 1, 1, generator=generator).repeat_interleave(torch.tensor(copies), 0)
    mean_C = x_BCHW.mean((0, 2, 3))
    centre_C = torch.zeros(runs)
    squares_BC = squares_around(x_BCHW, centre_C)
    found = repeated(sampled_images(x_BCHW[:, :, 0, 0], squares_BC, centre_C), worth)
    assert found.images == worth
    assert float(found.mean_variance_C.mean()) == pytest.approx(float(mean_C.var()), rel=0.02)
    assert float(found.mean_variance_C.mean()) == pytest.approx(1 / worth, rel=0.02)


def test_a_mixture_trusts_copies_for_what_they_are_worth() -> None:
    """By hand, in float64, from the shares of distinct images."""
    source, distinct = maps(60, 0), maps(6, 1, 0.3)
    copies = torch.tensor([3, 3, 3, 1, 1, 1])
    shares = (copies / copies.sum()).double().numpy()
    worth = int(1 / (shares**2).sum())
    found = shown(Mixed(60, worth), [source, distinct.repeat_interleave(copies, 0)])
    x = distinct.double().numpy()
    means, mean = x.mean((2, 3)), (shares @ x.mean((2, 3)))
    squares = ((x - mean[:, None, None]) ** 2).mean((2, 3))
    var = shares @ squares
    noise = [shares @ (values - shares @ values) ** 2 / (worth - 1) for values in (means, squares)]
    target = Moments(torch.tensor(mean).float(), torch.tensor(var).float())
    sample = Sampled(target, torch.tensor(noise[0]).float(), torch.tensor(noise[1]).float(), worth)
    of_source = moments(source)
    weights = mixing_weight(of_source, sample, 60), variance_weight(of_source, sample, 60)
    expected = mixed(of_source, target, *weights)
    torch.testing.assert_close(found.statistics.mean_C, expected.mean_C, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.statistics.var_C, expected.var_C, rtol=1e-4, atol=1e-5)


def test_a_single_image_of_the_target_is_not_mixed() -> None:
    with pytest.raises(InputError, match="at least 2 images of the target"):
        shown(Mixed(3), [maps(3, 0), maps(1, 1)])


def test_running_moments_move_by_their_momentum_and_batches_keep_their_own() -> None:
    source, batches = maps(9, 0), [maps(4, 1, 1.0), maps(4, 2, -1.0), maps(2, 3)]
    found = shown(Running(9, momentum=0.25), [source[:5], source[5:], *batches])
    mean, var = source.numpy().mean((0, 2, 3)), source.numpy().var((0, 2, 3))
    for x in (batch.numpy() for batch in batches):
        mean, var = 0.75 * mean + 0.25 * x.mean((0, 2, 3)), 0.75 * var + 0.25 * x.var((0, 2, 3))
    np.testing.assert_allclose(found.statistics.mean_C, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.statistics.var_C, var, rtol=1e-5, atol=1e-6)
    assert len(found.of_parts) == 5
    for part in found.of_parts[:2]:
        close(part, source)
    for part, batch in zip(found.of_parts[2:], batches, strict=True):
        close(part, batch)
