"""What predictions say of a stream: against scipy, all orders of a few images, many orders of many, and by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from nasimb.adapt.evidence import class_shares, entropy, excess_divergence, information, serial_dependence


def drawn(images: int, classes: int, seed: int = 0, sureness: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sureness * torch.randn(images, classes, generator=generator)).softmax(1)


def sampling(probabilities: np.ndarray, around: np.ndarray) -> float:
    return float((probabilities.var(0, ddof=1) / around).sum() / len(probabilities))


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(2, 9), st.integers(0, 99))
def test_entropy_is_that_of_scipy(images: int, classes: int, seed: int) -> None:
    probabilities_NK = drawn(images, classes, seed)
    expected_N = stats.entropy(probabilities_NK.double().numpy(), axis=1)
    np.testing.assert_allclose(entropy(probabilities_NK), expected_N, rtol=1e-5, atol=1e-6)


def test_a_sure_prediction_has_no_entropy() -> None:
    assert entropy(torch.eye(3)).tolist() == [0, 0, 0]


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(2, 9), st.integers(0, 99))
def test_information_is_that_of_scipy_with_what_few_images_hide(images: int, classes: int, seed: int) -> None:
    probabilities_NK = drawn(images, classes, seed)
    p = probabilities_NK.double().numpy()
    plain = stats.entropy(p.mean(0)) - stats.entropy(p, axis=1).mean()
    assert information(probabilities_NK) == pytest.approx(plain + sampling(p, p.mean(0)) / 2, abs=1e-5)


def test_information_of_few_images_is_about_that_of_many() -> None:
    whole = information(drawn(100_000, 6))
    few = [drawn(20, 6, seed) for seed in range(400)]
    hidden = np.mean([sampling(one.numpy(), one.numpy().mean(0)) / 2 for one in few])
    assert hidden > 0.04
    assert np.mean([information(one) for one in few]) == pytest.approx(whole, abs=0.2 * hidden)


def test_information_tells_sure_images_of_many_classes_from_unsure_and_from_one_class() -> None:
    many, one = torch.eye(4).repeat(50, 1), torch.eye(4)[[2]].repeat(200, 1)
    unsure = torch.full((200, 4), 0.25)
    assert information(many) == pytest.approx(math.log(4), abs=0.02)
    assert information(one) == pytest.approx(0, abs=1e-6)
    assert information(unsure) == pytest.approx(0, abs=1e-6)
    assert information(torch.eye(4)[:1]) == pytest.approx(0, abs=1e-6)


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(2, 9), st.integers(0, 99))
def test_excess_divergence_is_that_of_scipy_less_sampling(images: int, classes: int, seed: int) -> None:
    probabilities_NK, expected_K = drawn(images, classes, seed), drawn(1, classes, seed + 100)[0]
    p, e = probabilities_NK.double().numpy(), expected_K.double().numpy()
    found = stats.entropy(p.mean(0), e) - sampling(p, e) / 2
    assert excess_divergence(probabilities_NK, expected_K) == pytest.approx(max(0.0, found), abs=1e-5)


def test_images_drawn_as_expected_have_next_to_no_excess() -> None:
    expected_K = torch.tensor([0.5, 0.3, 0.15, 0.05])
    generator = torch.Generator().manual_seed(0)

    def excess(shares_K: Tensor) -> float:
        windows = [torch.eye(4)[torch.multinomial(shares_K, 64, True, generator=generator)] for _ in range(200)]
        return float(np.mean([excess_divergence(one, expected_K) for one in windows]))

    assert excess(expected_K) < 0.02  # without the correction: 3 / (2 * 64), and never below 0
    even_K = torch.full((4,), 0.25)
    assert excess(even_K) == pytest.approx(stats.entropy(even_K, expected_K), rel=0.1)


@pytest.mark.parametrize(("images", "classes", "reach"), [(6, 3, 1), (6, 3, 2), (6, 9, 3), (4, 2, 1), (5, 3, 2)])
def test_over_all_orders_of_a_few_images_the_score_has_mean_0_and_deviation_1(
    images: int, classes: int, reach: int
) -> None:
    probabilities_NK = drawn(images, classes)
    orders = itertools.permutations(range(images))
    scores = [serial_dependence(probabilities_NK[list(order)], reach) for order in orders]
    assert np.mean(scores) == pytest.approx(0, abs=1e-9)
    assert np.std(scores) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(
    ("images", "classes", "reach"), [(128, 4, 8), (256, 20, 8), (64, 2, 3), (24, 100, 8), (256, 400, 8)]
)
def test_the_score_of_dependence_is_standard_normal_over_random_orders(images: int, classes: int, reach: int) -> None:
    probabilities_NK, generator = drawn(images, classes), torch.Generator().manual_seed(1)
    scores = [
        serial_dependence(probabilities_NK[torch.randperm(images, generator=generator)], reach) for _ in range(600)
    ]
    assert np.mean(scores) == pytest.approx(0, abs=0.15)
    assert np.std(scores) == pytest.approx(1, abs=0.12)


def test_runs_of_a_class_depend_and_a_strict_alternation_is_the_opposite() -> None:
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.randint(4, (32,), generator=generator).repeat_interleave(8)
    unsure_NK = (2 * torch.eye(4)[labels_N] + torch.randn(256, 4, generator=generator)).softmax(1)
    assert serial_dependence(unsure_NK, 8) > 6
    assert serial_dependence(unsure_NK[labels_N.argsort()], 8) > 30
    assert serial_dependence(torch.eye(2).repeat(50, 1), 1) < -6


def test_what_has_no_order_has_no_dependence() -> None:
    assert serial_dependence(drawn(2, 4), 8) == 0
    assert serial_dependence(drawn(6, 4), 8) == 0  # all are neighbours
    assert serial_dependence(torch.full((50, 4), 0.25), 8) == 0


def test_one_step_for_the_shares_of_two_classes_by_hand() -> None:
    probabilities_NK = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    # Believed 3 to 1 where the model expects 1 to 1: 2.4 to 0.2 and 1.2 to 0.6.
    found_K = class_shares(probabilities_NK, torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(found_K, torch.tensor([2.4 / 2.6 + 1.2 / 1.8, 0.2 / 2.6 + 0.6 / 1.8]))


def test_repeated_steps_find_the_shares_of_a_shifted_stream() -> None:
    """Exact posteriors of two normal classes under even shares; nine images in ten are of the first."""
    generator = torch.Generator().manual_seed(0)
    of_first_N = torch.rand(20_000, generator=generator) < 0.9
    x_N = torch.randn(20_000, generator=generator) + torch.where(of_first_N, 1.0, -1.0)
    probabilities_NK = torch.stack([2 * x_N, torch.zeros_like(x_N)], 1).softmax(1)
    even_K = shares_K = torch.tensor([0.5, 0.5])
    for _ in range(50):
        shares_K = class_shares(probabilities_NK, shares_K, even_K) / len(x_N)
    assert float(shares_K[0]) == pytest.approx(0.9, abs=0.01)


def test_dependence_of_many_classes_takes_no_table_of_classes() -> None:
    """100,000 classes: a table of them would take 80 GB."""
    probabilities_NK = torch.full((24, 100_000), 1e-5)
    probabilities_NK[:12, 7] = 0.5
    assert serial_dependence(probabilities_NK, 4) > 3
