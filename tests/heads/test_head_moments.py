"""Moments against two-pass sums in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from by_hand import features_and_labels, standardised
from hypothesis import given, settings
from hypothesis import strategies as st

from nasimb.errors import DataError, WorkError
from nasimb.heads.moments import Chunks, Classes, Moments, _add_by_bags, gather_moments
from nasimb.heads.weights import BALANCED, ClassWeighting

WEIGHTINGS = (BALANCED, ClassWeighting("inverse_sqrt"))


def gathered(features_ND: np.ndarray, labels_N: np.ndarray, sizes: list[int]) -> Moments:
    """From chunks of these sizes, and one of the rest."""
    classes = Classes.of(torch.bincount(torch.tensor(labels_N)))
    return gather_moments(chunks_of(features_ND, labels_N, sizes), classes, WEIGHTINGS)


def chunks_of(features_ND: np.ndarray, labels_N: np.ndarray, sizes: list[int]) -> Chunks:
    ends = np.cumsum(sizes)
    pairs = zip(np.split(features_ND, ends), np.split(labels_N, ends), strict=True)
    chunks = [(torch.tensor(features_BD), torch.tensor(labels_B)) for features_BD, labels_B in pairs]
    return lambda: chunks


def check(found: Moments, features_ND: np.ndarray, labels_N: np.ndarray, tolerance: float = 1e-9) -> None:
    x_ND = standardised(features_ND, labels_N)
    present, counts_P = np.unique(labels_N, return_counts=True)
    position_N = np.searchsorted(present, labels_N)
    means_PD = np.stack([x_ND[labels_N == label].mean(0) for label in present])
    np.testing.assert_allclose(found.means_PD.numpy(), means_PD, atol=tolerance)
    for weighting, raw_P in zip(WEIGHTINGS, (1 / counts_P, counts_P**-0.5), strict=True):
        weights_N = raw_P[position_N] / raw_P[position_N].sum()
        np.testing.assert_allclose(
            found.seconds[weighting].numpy(), x_ND.T @ (weights_N[:, None] * x_ND), atol=tolerance
        )


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 12), max_size=5), seed=st.integers(0, 99))
def test_any_chunks_give_the_moments_of_all_images(sizes: list[int], seed: int) -> None:
    features_ND, labels_N = features_and_labels([40, 0, 15, 4, 1], 5, seed)
    check(gathered(features_ND, labels_N, sizes), features_ND, labels_N)


def test_features_far_from_zero_keep_their_digits() -> None:
    features_ND, labels_N = features_and_labels([40, 15, 5], 4)
    features_ND += 1e6
    check(gathered(features_ND, labels_N, [10, 20]), features_ND, labels_N, tolerance=1e-8)


def test_a_first_chunk_of_one_class_is_no_worse() -> None:
    features_ND, labels_N = features_and_labels([40, 15, 5], 4)
    features_ND[labels_N == 2] += 100.0
    order = np.argsort(labels_N)[::-1].copy()
    check(gathered(features_ND[order], labels_N[order], [5]), features_ND[order], labels_N[order])


@pytest.mark.parametrize("constant", [0.0, 4.2, -1e8])
def test_a_constant_feature_keeps_deviation_one(constant: float) -> None:
    features_ND, labels_N = features_and_labels([9, 5], 3)
    features_ND[:, 1] = constant
    found = gathered(features_ND, labels_N, [4])
    assert found.std_D[1] == 1.0
    assert (found.means_PD[:, 1].abs() < 1e-7).all()
    assert (found.std_D[[0, 2]] != 1.0).all()


def test_lower_precision_features_are_summed_in_double() -> None:
    features_ND, labels_N = features_and_labels([9, 5], 3)
    half_ND = torch.tensor(features_ND).bfloat16()
    classes = Classes.of(torch.bincount(torch.tensor(labels_N)))
    found = gather_moments(lambda: [(half_ND, torch.tensor(labels_N))], classes, WEIGHTINGS)
    check(found, half_ND.double().numpy(), labels_N)


def test_sums_by_bags_equal_scattered_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    rows_BD = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    positions_B = torch.randint(0, 5, (50,), generator=generator) + torch.tensor(1)  # the first and last class: none
    sums_PD = torch.ones(8, 3, dtype=torch.float64)
    expected_PD = sums_PD.index_add(0, positions_B, rows_BD)
    _add_by_bags(sums_PD, rows_BD, positions_B)
    assert torch.allclose(sums_PD, expected_PD, rtol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
@pytest.mark.parametrize("row", [0, 30])
def test_a_feature_that_is_not_finite_is_found_in_any_chunk(bad: float, row: int) -> None:
    features_ND, labels_N = features_and_labels([40, 15], 3)
    features_ND[row, 2] = bad
    with pytest.raises(WorkError, match="1 of 20 images"):
        gathered(features_ND, labels_N, [20, 20])


def test_counts_that_are_not_those_of_the_images_are_refused() -> None:
    features_ND, labels_N = features_and_labels([6, 3], 2)
    chunks = chunks_of(features_ND, labels_N, [4])
    for counts, message in (([7, 3], "9 images where the counts say 10"), ([5, 4], "the images"), ([6, 0, 3], "none")):
        with pytest.raises(DataError, match=message):
            gather_moments(chunks, Classes.of(torch.tensor(counts)), ())
    with pytest.raises(DataError, match="from 0 to 1"):
        gather_moments(lambda: [(torch.ones(1, 2), torch.tensor([2]))], Classes.of(torch.tensor([6, 3])), ())
    with pytest.raises(DataError, match="0 images"):
        gather_moments(lambda: [], Classes.of(torch.tensor([6, 3])), ())


def test_a_part_cannot_have_more_images_than_the_whole() -> None:
    with pytest.raises(DataError, match="5 of 4 for class 1"):
        Classes.of(torch.tensor([3, 5]), torch.tensor([3, 4]))
