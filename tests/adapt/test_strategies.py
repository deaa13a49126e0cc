"""Each estimator against torch's batch norm, by its formula, or at its limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from nasimb.adapt.strategies import STRATEGIES, Estimate, Known, Mixed, Strategy, named
from nasimb.errors import InputError
from nasimb.nn.mixing import Sampled
from nasimb.nn.moments import Moments, moments

C = 5


def drawn(images: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    of_images = 0.5 * torch.randn(images, C, 1, 1, generator=generator)
    return shift + of_images + torch.randn(images, C, 4, 3, generator=generator)


SOURCE = moments(drawn(4000, seed=9))


def after(strategy: Strategy, *batches: Tensor, source: Moments = SOURCE) -> Estimate:
    """The estimate after some batches, one after the other."""
    known: Known = None
    for x_BCHW in batches:
        found = strategy.estimate(source, x_BCHW, known)
        known = found.known
    return found


def same(a: Moments, b: Moments) -> None:
    assert_close(a.mean_C, b.mean_C, rtol=1e-5, atol=1e-6)
    assert_close(a.var_C, b.var_C, rtol=1e-5, atol=1e-6)


def test_source_stays() -> None:
    assert after(named("source"), drawn(8, shift=3)).moments is SOURCE
    assert not named("source").adapts


def test_batch_is_batch_norm_in_training() -> None:
    x_BCHW = drawn(8, shift=2)
    found = after(named("batch"), drawn(3), x_BCHW)
    normalised = (x_BCHW - found.moments.mean_C[:, None, None]) / (found.moments.var_C[:, None, None] + 1e-5).sqrt()
    assert_close(normalised, nn.BatchNorm2d(C, affine=False).train()(x_BCHW), rtol=1e-4, atol=1e-5)
    assert float(found.weight) == 1


def test_ema_moves_means_as_the_momentum_of_torch_does_and_keeps_the_variance_between_them() -> None:
    norm = nn.BatchNorm2d(C, momentum=0.3, affine=False).train()
    norm.running_mean.copy_(SOURCE.mean_C)
    batches = [drawn(6, seed, shift=seed) for seed in range(4)]
    for x_BCHW in batches:
        norm(x_BCHW)
    found = after(named("ema:0.3"), *batches)
    assert_close(found.moments.mean_C, norm.running_mean)
    # As of one population in which a batch has its share.
    mean_C, var_C = SOURCE.mean_C.double(), SOURCE.var_C.double()
    for x_BCHW in batches:
        of_batch, before_C = x_BCHW.double(), mean_C
        mean_C = 0.7 * before_C + 0.3 * of_batch.mean((0, 2, 3))
        square_C = 0.7 * (var_C + before_C**2) + 0.3 * (of_batch**2).mean((0, 2, 3))
        var_C = square_C - mean_C**2
    assert_close(found.moments.var_C, var_C.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("images", [1, 8])
def test_prior_weighs_the_source_as_so_many_images(images: int) -> None:
    """With source moments of 16 images of the batch's size, all of them together."""
    before, now = drawn(16, seed=1), drawn(images, seed=2, shift=1)
    found = after(named("prior:16"), drawn(3), now, source=moments(before))
    same(found.moments, moments(torch.cat([before, now])))
    assert float(found.weight) == pytest.approx(images / (images + 16))


def test_prior_of_none_is_the_batch_and_of_infinitely_many_the_source() -> None:
    x_BCHW = drawn(8, shift=2)
    same(after(named("prior:0"), x_BCHW).moments, moments(x_BCHW))
    same(after(named("prior:inf"), x_BCHW).moments, SOURCE)


def test_mean_step_is_a_step_of_that_length() -> None:
    x_BCHW = drawn(8, shift=2)
    found, target = after(named("mean-step:0.25"), x_BCHW).moments, moments(x_BCHW)
    assert_close(found.mean_C, torch.lerp(SOURCE.mean_C, target.mean_C, 0.25))
    between_C = 0.25 * 0.75 * (SOURCE.mean_C - target.mean_C) ** 2
    assert_close(found.var_C, torch.lerp(SOURCE.var_C, target.var_C, 0.25) + between_C)
    same(after(named("mean-step:0"), x_BCHW).moments, SOURCE)
    same(after(named("mean-step:1"), x_BCHW).moments, target)


def test_huber_step_ignores_a_broken_image_and_is_near_the_batch_without_one() -> None:
    x_BCHW = drawn(32, shift=2)
    target = moments(x_BCHW)
    broken = torch.cat([x_BCHW, torch.full((1, C, 4, 3), 1000.0)])
    far, near = (after(named("huber-step:1.5"), x).moments for x in (broken, x_BCHW))
    assert (near.mean_C - target.mean_C).abs().max() < 0.15
    assert (near.var_C / target.var_C - 1).abs().max() < 0.2
    assert (far.mean_C - near.mean_C).abs().max() < 0.1
    assert (far.var_C / near.var_C - 1).abs().max() < 0.2
    assert (moments(broken).mean_C - target.mean_C).abs().min() > 30


def test_huber_step_with_nothing_clipped_is_the_batch_even_of_a_single_image() -> None:
    same(after(named("huber-step:100"), drawn(8, shift=2)).moments, moments(drawn(8, shift=2)))
    same(after(named("huber-step"), drawn(1)).moments, moments(drawn(1)))


def test_mixed_follows_a_large_shift_and_not_the_noise_of_a_few_images() -> None:
    shifted = drawn(64, shift=4)
    found = after(named("mixed"), *shifted.split(8))
    assert float(found.weight) > 0.97
    assert_close(found.moments.mean_C, moments(shifted).mean_C, rtol=0.03, atol=0)
    few = after(named("mixed"), drawn(4))
    assert float(few.weight) < 0.4
    assert ((few.moments.mean_C - SOURCE.mean_C) ** 2).mean() < 0.3 * (
        (moments(drawn(4)).mean_C - SOURCE.mean_C) ** 2
    ).mean()


def test_a_single_image_stays_at_the_source_and_counts_later() -> None:
    one = after(named("mixed"), drawn(1, shift=4))
    assert one.moments is SOURCE
    assert float(one.weight) == 0
    two = after(named("mixed"), *drawn(2, shift=4).split(1))
    assert float(two.weight) > 0.5


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_mixed_does_not_see_how_a_stream_is_cut(sizes: list[int]) -> None:
    stream = drawn(sum(sizes) + 2, shift=0.5)
    whole, parts = after(named("mixed"), stream), after(named("mixed"), *stream.split([*sizes, 2]))
    assert_close(whole.moments.mean_C, parts.moments.mean_C, rtol=0.02, atol=0.02)
    assert isinstance(whole.known, Sampled)
    assert isinstance(parts.known, Sampled)
    assert_close(whole.known.moments.var_C, parts.known.moments.var_C, rtol=1e-4, atol=1e-5)
    assert_close(whole.known.mean_variance_C, parts.known.mean_variance_C, rtol=1e-4, atol=1e-6)
    assert whole.known.images == parts.known.images == sum(sizes) + 2


def test_memory_fades_what_is_old() -> None:
    old, new = drawn(64, seed=1, shift=3), drawn(64, seed=2, shift=-3)
    long, short = (after(Mixed(memory), *old.split(8), *new.split(8)).moments for memory in (10_000, 16))
    assert abs(float(long.mean_C.mean())) < 0.3
    assert float(short.mean_C.mean()) < -2.5
    found = after(Mixed(16), *old.split(8)).known
    assert isinstance(found, Sampled)
    assert found.images == 16


@pytest.mark.parametrize("name", [*STRATEGIES, "prior:4", "ema:0.5", "mixed:64", "mean-step:0.1", "huber-step:3"])
def test_every_strategy_takes_out_what_it_is_told_to_and_changes_no_input(name: str) -> None:
    strategy, x_BCHW = named(name), drawn(12, shift=2)
    before = x_BCHW.clone()

    def correct(found: Moments) -> Moments:
        return Moments(found.mean_C - 2, found.var_C)

    plain, corrected = strategy.estimate(SOURCE, x_BCHW, None), strategy.estimate(SOURCE, x_BCHW, None, correct)
    assert torch.equal(x_BCHW, before)
    assert 0 <= float(plain.weight) <= 1
    assert (plain.moments.var_C > 0).all()
    if strategy.adapts:
        assert corrected.moments.mean_C.abs().mean() < plain.moments.mean_C.abs().mean()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixd", "'mixd'. Did you mean 'mixed'?"),
        ("", "a strategy must be one of batch, ema, huber-step, mean-step, mixed, prior, source"),
        ("batch:3", "the strategy batch takes no number; got batch:3. Write batch."),
        ("prior:-1", "the number of prior must be from 0 to inf; got prior:-1. Write prior:16"),
        ("prior:many", "got prior:many. Write prior:16"),
        ("prior:", "got prior:. Write prior:16"),
        ("ema:1.5", "the number of ema must be from 0 to 1; got ema:1.5. Write ema:0.1"),
        ("ema:nan", "got ema:nan"),
        ("mixed:3", "the whole number of mixed must be from 4 to 1e+09"),
        ("mixed:4.5", "the whole number of mixed must be from 4 to 1e+09; got mixed:4.5. Write mixed:8192"),
        ("huber-step:0", "the number of huber-step must be from 0.001 to inf"),
    ],
)
def test_names_and_numbers_that_stand_for_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        named(text)
    assert message in str(error.value)
