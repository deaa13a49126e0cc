"""Class weights: the printed values of the papers, and their limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasimb.losses.weights import effective_number_weights, inverse_frequency_weights, mean_one

counts = st.lists(st.integers(1, 100_000), min_size=2, max_size=20)


@pytest.mark.parametrize(("n", "effective"), [(5000, 3934.8), (500, 487.7), (50, 49.9), (5, 5.0)])
def test_effective_numbers_at_beta_0_9999(n: int, effective: float) -> None:
    weights_K = effective_number_weights(torch.tensor([n, 1], dtype=torch.float64), 0.9999)
    assert (weights_K[1] / weights_K[0]).item() == pytest.approx(effective, abs=0.05)


@given(counts, st.floats(0.0, 0.99999))
def test_effective_number_weights_add_up_to_the_classes_and_fall_with_size(sizes: list[int], beta: float) -> None:
    counts_K = torch.tensor(sorted(sizes), dtype=torch.float64)
    weights_K = effective_number_weights(counts_K, beta)
    assert weights_K.sum().item() == pytest.approx(len(sizes))
    assert (weights_K.diff() <= 1e-12).all()


def test_limits_of_beta() -> None:
    counts_K = torch.tensor([1000.0, 30.0, 2.0], dtype=torch.float64)
    assert effective_number_weights(counts_K, 0.0).tolist() == [1.0, 1.0, 1.0]
    nearly_one = mean_one(effective_number_weights(counts_K, 1 - 1e-12), counts_K)
    assert nearly_one.tolist() == pytest.approx(inverse_frequency_weights(counts_K).tolist(), rel=1e-3)


@given(counts)
def test_inverse_frequency_gives_every_class_the_same_weight(sizes: list[int]) -> None:
    counts_K = torch.tensor(sizes, dtype=torch.float64)
    totals_K = inverse_frequency_weights(counts_K) * counts_K
    assert totals_K.tolist() == pytest.approx([counts_K.sum().item() / len(sizes)] * len(sizes))


@given(counts)
def test_mean_one_over_the_images(sizes: list[int]) -> None:
    counts_K = torch.tensor(sizes, dtype=torch.float64)
    scaled_K = mean_one(torch.rand(len(sizes), dtype=torch.float64) + 0.1, counts_K)
    assert ((scaled_K * counts_K).sum() / counts_K.sum()).item() == pytest.approx(1.0)
