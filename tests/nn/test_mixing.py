"""Mixed moments and their weight, against whole batches, drawn mixtures and the posterior in full."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.special import gamma
from torch import Tensor
from torch.testing import assert_close

from nasimb.errors import InputError
from nasimb.nn.mixing import (
    EXCESS_KURTOSIS,
    MEDIAN_SHIFT,
    PRIOR_SHAPE,
    Sampled,
    effective_n,
    fading,
    mixed,
    mixing_weight,
    pooled_samples,
    sampled,
    sampled_images,
    squares_around,
    variance_weight,
)
from nasimb.nn.moments import Moments, moments

CHANNELS = 16


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Skewed values whose images have means of their own, far from zero."""
    generator = torch.Generator().manual_seed(seed)
    of_images = torch.randn(shape[0], shape[1], 1, 1, generator=generator)
    return 5 + of_images + torch.empty(shape).exponential_(generator=generator)


def layer(square: float, noise: float, images: int = 16, channels: int = CHANNELS) -> tuple[Moments, Sampled]:
    """Source moments 0 and 1, and a target whose mean squared difference and noise are these in every channel."""
    source = Moments(torch.zeros(channels), torch.ones(channels))
    target = Moments(torch.full((channels,), square**0.5), torch.ones(channels))
    return source, Sampled(target, *[torch.full((channels,), noise)] * 2, images)


def weight_at(square: float, noise: float, images: int = 16, source_images: float | None = None) -> float:
    return float(mixing_weight(*layer(square, noise, images), source_images))


def same(a: Sampled, b: Sampled) -> None:
    assert a.images == b.images
    assert_close(a.moments.mean_C, b.moments.mean_C, rtol=1e-5, atol=0)
    assert_close(a.moments.var_C, b.moments.var_C, rtol=1e-4, atol=0)
    assert_close(a.mean_variance_C, b.mean_variance_C, rtol=1e-4, atol=0)


def test_a_batch_has_the_moments_of_its_pixels_and_the_variance_of_its_image_means() -> None:
    x_BCHW = drawn(6, 3, 4, 5)
    found = sampled(x_BCHW)
    expected = x_BCHW.numpy().astype(np.float64)
    np.testing.assert_allclose(found.moments.mean_C.numpy(), expected.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found.moments.var_C.numpy(), expected.var((0, 2, 3)), rtol=1e-5)
    image_means = expected.mean((2, 3))
    np.testing.assert_allclose(found.mean_variance_C.numpy(), image_means.var(0, ddof=1) / 6, rtol=1e-5)
    assert found.images == 6


def test_a_single_image_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 images; got 1"):
        mixing_weight(layer(0.0, 0.0)[0], sampled(torch.zeros(1, 3, 2, 2)), None)


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 99))
def test_any_two_parts_say_what_the_whole_says(a: int, b: int, seed: int) -> None:
    x_BCHW = drawn(a + b, 2, 3, 2, seed=seed)
    same(pooled_samples(sampled(x_BCHW[:a]), sampled(x_BCHW[a:])), sampled(x_BCHW))


def test_pooling_is_associative_and_leaves_no_order() -> None:
    a, b, c = (sampled(drawn(n, 3, 2, 2, seed=n)) for n in (2, 5, 9))
    same(pooled_samples(pooled_samples(a, b), c), pooled_samples(a, pooled_samples(c, b)))


def test_effective_n_is_that_of_correlated_pixels() -> None:
    """16 images of 64 pixels that share about half of their variance: as many as 32 values, not 1,024."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(16, 2000, 1, 1, generator=generator) * 0.49**0.5
    x_BCHW = shared + torch.randn(16, 2000, 8, 8, generator=generator) * 0.51**0.5
    found = sampled(x_BCHW)
    true = (0.49 + 0.51 / 64) / 16
    assert found.mean_variance_C.mean().item() == pytest.approx(true, rel=0.03)
    assert found.moments.mean_C.var().item() == pytest.approx(true, rel=0.1)
    assert effective_n(found).median().item() == pytest.approx(1 / true, rel=0.1)


def test_pixels_that_resemble_each_other_do_not_make_noise_a_shift() -> None:
    """Means mixed by the noise between images against noise as of independent pixels, in 400 layers of small shifts."""
    generator = torch.Generator().manual_seed(0)
    layers, images, pixels = 400, 8, 16
    shape = (images, layers * CHANNELS)
    shared = torch.randn(*shape, 1, 1, generator=generator) * 0.49**0.5
    found = sampled(shared + torch.randn(*shape, 4, 4, generator=generator) * 0.51**0.5)
    shift_LC = torch.randn(layers, CHANNELS, generator=generator) * 0.1
    mean_LC, noise_LC = (one.reshape(layers, CHANNELS) for one in (found.moments.mean_C, found.mean_variance_C))
    source, target = Moments(shift_LC, torch.ones(layers, CHANNELS)), Moments(mean_LC, torch.ones(layers, CHANNELS))

    def error(noise_LC: Tensor) -> float:
        weight_L1 = mixing_weight(source, Sampled(target, noise_LC, noise_LC, images), None)[:, None]
        return float(torch.lerp(shift_LC, mean_LC, weight_L1).square().mean())

    assert error(noise_LC) < 1.15 * 0.1**2
    assert error(torch.full_like(noise_LC, 1 / (images * pixels))) > 3 * 0.1**2


@settings(deadline=None)
@given(st.floats(0, 1e4), st.floats(0, 1e3), st.integers(2, 500))
def test_the_weight_is_a_share(square: float, noise: float, images: int) -> None:
    assert 0 <= weight_at(square, noise, images) <= 1


@settings(deadline=None)
@given(st.floats(1e-4, 50), st.floats(1.05, 10), st.floats(1e-3, 10), st.sampled_from([2, 4, 16, 256]))
def test_the_weight_grows_with_the_shift_and_falls_with_the_noise(
    square: float, factor: float, noise: float, images: int
) -> None:
    here = weight_at(square, noise, images)
    assert weight_at(square * factor, noise, images) >= here - 1e-6
    assert weight_at(square, noise * factor, images) <= here + 1e-6


@pytest.mark.parametrize(("square", "noise"), [(1e6, 1e3), (1e9, 1e5), (1e4, 1.0)])
def test_a_certain_shift_is_believed_however_large(square: float, noise: float) -> None:
    assert weight_at(square, noise, 16) > 0.98 * square / (square + noise)


@pytest.mark.parametrize("far", [0.3, 10.0, 100.0])
def test_a_channel_that_is_dead_in_the_source_does_not_decide_for_the_others(far: float) -> None:
    generator = torch.Generator().manual_seed(0)
    var_C = torch.ones(CHANNELS)
    var_C[0] = 0
    source = Moments(torch.zeros(CHANNELS), var_C)
    shifted_BCHW = torch.randn(16, CHANNELS, 4, 4, generator=generator) + 0.7
    for other in (1.0, 0.0):  # the dead channel has come to life: shifted, or around 0
        shifted_BCHW[:, 0] = far * (other + 0.2 * torch.randn(16, 4, 4, generator=generator))
        assert mixing_weight(source, sampled(shifted_BCHW), None) > 0.9


def test_effective_n_counts_images_of_one_pixel() -> None:
    for images in (2, 5, 16):
        x_BCHW = torch.randn(images, 3, 1, 1, generator=torch.Generator().manual_seed(images))
        torch.testing.assert_close(effective_n(sampled(x_BCHW)), torch.full((3,), float(images)))


def test_the_weight_is_the_posterior_mean_of_the_best_share() -> None:
    """By adaptive quadrature of the stated prior and chi-square likelihood."""
    images, noise, square = 8, 0.125, 0.3
    scale = MEDIAN_SHIFT**2 / (2 ** (1 / PRIOR_SHAPE) - 1)

    def posterior(shift: float) -> float:
        total, kurtosis = shift + noise, EXCESS_KURTOSIS / images
        share = noise / total
        half = CHANNELS / (2 + share**2 * (2 * kurtosis + 2 / (images - 1)))
        chi = (half / total) ** half * square ** (half - 1) * np.exp(-half * square / total)
        return chi / gamma(half) * (1 + shift / scale) ** -(PRIOR_SHAPE + 1)

    def over_all(value) -> float:  # type: ignore[no-untyped-def]
        return integrate.quad(value, 0, 1, limit=200)[0] + integrate.quad(value, 1, 1000, limit=200)[0]

    expected = over_all(lambda d: posterior(d) * d / (d + noise)) / over_all(posterior)
    assert weight_at(square, noise, images) == pytest.approx(expected, abs=2e-3)


def test_half_of_the_prior_lies_below_its_median_shift() -> None:
    scale = MEDIAN_SHIFT**2 / (2 ** (1 / PRIOR_SHAPE) - 1)
    assert 1 - (1 + MEDIAN_SHIFT**2 / scale) ** -PRIOR_SHAPE == pytest.approx(0.5)


def test_what_looks_like_noise_of_few_images_is_hardly_believed_and_a_large_shift_is() -> None:
    assert 0.02 < weight_at(0.25, 0.25, images=4) < 0.12
    assert weight_at(1.25, 0.25, images=4) > 0.5
    assert weight_at(9.25, 0.25, images=4) > 0.95
    assert weight_at(1.06, 0.06, images=16) > 0.9


def test_a_source_of_few_images_is_trusted_less() -> None:
    known, large, small = (weight_at(0.1, 0.1, source_images=n) for n in (None, 1e6, 16))
    assert large == pytest.approx(known, abs=1e-4)
    assert small > 0.5 > known


def test_the_weight_does_not_depend_on_the_units_of_a_channel() -> None:
    source = moments(drawn(64, 8, 2, 2, seed=1))
    x_BCHW = drawn(8, 8, 2, 2, seed=2)
    unit_C = torch.logspace(-1, 2, 8)
    scaled = Moments(source.mean_C * unit_C, source.var_C * unit_C**2)
    found = mixing_weight(scaled, sampled(x_BCHW * unit_C[:, None, None]), 64)
    assert_close(found, mixing_weight(source, sampled(x_BCHW), 64), rtol=0, atol=1e-3)
    assert found.dtype == torch.float32
    assert found.ndim == 0


def test_layers_may_be_weighed_together() -> None:
    batches = [sampled(drawn(6, 5, 2, 2, seed=seed)) for seed in range(3)]
    source = Moments(torch.full((5,), 6.0), torch.full((5,), 2.0))
    together = Sampled(
        Moments(*(torch.stack([getattr(one.moments, name) for one in batches]) for name in ("mean_C", "var_C"))),
        torch.stack([one.mean_variance_C for one in batches]),
        torch.stack([one.var_variance_C for one in batches]),
        6,
    )
    assert_close(mixing_weight(source, together, 50), torch.stack([mixing_weight(source, one, 50) for one in batches]))


def test_dead_channels_and_batches_without_noise_have_a_weight() -> None:
    source, target = layer(0.0, 0.0)
    assert 0 <= mixing_weight(source, target, None) <= 1
    dead = Moments(torch.zeros(4), torch.zeros(4))
    assert 0 <= mixing_weight(dead, sampled(torch.zeros(3, 4, 2, 2)), 10) <= 1


def test_mixed_moments_are_those_of_a_drawn_mixture() -> None:
    random = np.random.default_rng(0)
    from_target = random.random(400_000) < 0.3
    values = np.where(from_target, random.normal(2, 0.5**0.5, 400_000), random.normal(0, 1, 400_000))
    found = mixed(
        Moments(torch.tensor([0.0]), torch.tensor([1.0])), Moments(torch.tensor([2.0]), torch.tensor([0.5])), 0.3
    )
    assert found.mean_C.item() == pytest.approx(values.mean(), abs=0.01)
    assert found.var_C.item() == pytest.approx(values.var(), abs=0.01)
    assert found.var_C.item() == pytest.approx(1.69)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_ends_of_mixing_are_source_and_target(as_tensor: bool) -> None:
    source, target = moments(drawn(4, 3, 2, 2, seed=1)), moments(drawn(4, 3, 2, 2, seed=2) * 3)
    for weight, end in ((0.0, source), (1.0, target)):
        found = mixed(source, target, torch.tensor(weight) if as_tensor else weight)
        assert torch.equal(found.mean_C, end.mean_C)
        assert torch.equal(found.var_C, end.var_C)


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(1, 30))
def test_mixing_in_shares_of_values_is_merging_them(weight: float, extra: int) -> None:
    source, target = moments(drawn(extra, 2, 2, 2, seed=3)), moments(drawn(10, 2, 2, 2, seed=4) + 2)
    whole = moments(torch.cat([drawn(extra, 2, 2, 2, seed=3), drawn(10, 2, 2, 2, seed=4) + 2]))
    found = mixed(source, target, 10 / (10 + extra))
    assert_close(found.var_C, whole.var_C, rtol=1e-4, atol=0)
    assert_close(found.mean_C, whole.mean_C)
    assert (mixed(source, target, weight).var_C >= torch.minimum(source.var_C, target.var_C) * (1 - 1e-6)).all()


@settings(deadline=None)
@given(st.integers(2, 40), st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.integers(0, 99))
def test_images_say_the_same_from_any_centre(images: int, centre: list[float], seed: int) -> None:
    x_BCHW, centre_C = drawn(images, 3, 4, 2, seed=seed), torch.tensor(centre) + 5
    found = sampled_images(x_BCHW.mean((2, 3)), squares_around(x_BCHW, centre_C), centre_C)
    same(found, sampled(x_BCHW))
    assert_close(found.var_variance_C, sampled(x_BCHW).var_variance_C, rtol=2e-3, atol=1e-6)


def test_squares_are_those_of_numpy_in_as_many_parts_as_it_takes() -> None:
    x_BCHW, centre_C = drawn(600, 2, 3, 3), torch.tensor([5.0, 6.0])
    expected = ((x_BCHW.double().numpy() - np.array([[[5.0]], [[6.0]]])) ** 2).mean((2, 3))
    np.testing.assert_allclose(squares_around(x_BCHW, centre_C), expected, rtol=1e-5)


def test_the_variance_of_a_variance_is_that_of_the_images_squares() -> None:
    x_BCHW = drawn(6, 3, 4, 5)
    found, wide = sampled(x_BCHW), x_BCHW.double().numpy()
    squares = ((wide - wide.mean((0, 2, 3))[:, None, None]) ** 2).mean((2, 3))
    np.testing.assert_allclose(found.var_variance_C, squares.var(0, ddof=1) / 6, rtol=1e-4)
    single = sampled(x_BCHW[:1])
    assert single.mean_variance_C.tolist() == single.var_variance_C.tolist() == [0, 0, 0]


def test_the_variance_of_a_pooled_variance_is_right_for_parts_of_one_mean() -> None:
    x_BCHW = drawn(40, 3, 3, 2)
    x_BCHW[20:] += (x_BCHW[:20].mean((0, 2, 3)) - x_BCHW[20:].mean((0, 2, 3)))[:, None, None]
    pooled = pooled_samples(sampled(x_BCHW[:20]), sampled(x_BCHW[20:]))
    assert_close(pooled.var_variance_C, sampled(x_BCHW).var_variance_C, rtol=1e-3, atol=1e-6)


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(2, 60))
def test_fading_trusts_as_many_images_as_it_is_told_and_never_more_than_there_are(images: int, most: int) -> None:
    before = sampled(drawn(images, 2, 3, 2))
    found = fading(before, most)
    assert found.images == min(images, most)
    assert found.moments is before.moments
    # Deviation of single images: theirs.
    assert_close(found.mean_variance_C * found.images, before.mean_variance_C * images)
    assert_close(found.var_variance_C * found.images, before.var_variance_C * images)


def variance_weight_at(ratio: float, noise: float, images: int = 16) -> float:
    """Where the target's variance is `ratio` times the source's, known up to `noise` times its square."""
    one_C = torch.ones(CHANNELS)
    target = Sampled(Moments(torch.zeros(CHANNELS), one_C * ratio), one_C, one_C * noise * ratio**2, images)
    return float(variance_weight(Moments(torch.zeros(CHANNELS), one_C), target, None))


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-6, 10), st.integers(2, 300))
def test_the_weight_of_variances_is_a_share_and_the_same_both_ways_and_in_any_unit(
    ratio: float, noise: float, images: int
) -> None:
    found = variance_weight_at(ratio, noise, images)
    assert 0 <= found <= 1
    one_C = torch.ones(CHANNELS)
    for unit in (0.1, 40.0):
        target = Sampled(Moments(one_C * 0, one_C * ratio * unit), one_C, one_C * noise * (ratio * unit) ** 2, images)
        assert float(variance_weight(Moments(one_C * 0, one_C * unit), target, None)) == pytest.approx(found, abs=2e-3)


def test_a_certain_change_of_variance_is_believed_and_noise_is_not() -> None:
    assert variance_weight_at(1.0, 0.5) < 0.15
    assert variance_weight_at(4.0, 1e-4, 256) > 0.99
    assert variance_weight_at(0.25, 1e-4, 256) > 0.99
    assert variance_weight_at(1.5, 0.01) > variance_weight_at(1.5, 0.1) > variance_weight_at(1.5, 1.0)


def test_the_weight_of_variances_does_not_see_the_means() -> None:
    source, x_BCHW = moments(drawn(64, CHANNELS, 3, 3, seed=1)), drawn(8, CHANNELS, 3, 3, seed=2)
    found = variance_weight(source, sampled(x_BCHW), None)
    assert_close(variance_weight(source, sampled(x_BCHW + 2), None), found, rtol=0, atol=1e-4)
    assert mixing_weight(source, sampled(x_BCHW + 2), None) > mixing_weight(source, sampled(x_BCHW), None) + 0.2


def test_means_and_variances_may_be_mixed_in_different_shares() -> None:
    source, target = (
        Moments(torch.tensor([0.0]), torch.tensor([1.0])),
        Moments(torch.tensor([2.0]), torch.tensor([5.0])),
    )
    found = mixed(source, target, 0.25, 0.75)
    assert found.mean_C.item() == 0.5
    assert found.var_C.item() == pytest.approx(0.25 * 1 + 0.75 * 5 + 0.25 * 0.75 * 4)
    assert mixed(source, target, 0.0, 1.0).var_C.item() == 5
