"""Stratified folds over few images a class."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nasimb.heads.folds import ALWAYS_TRAINING, stratified_folds


@given(st.lists(st.integers(0, 13), min_size=1, max_size=8), st.integers(2, 6), st.integers(0, 1000))
def test_folds_are_even_within_every_class_and_never_take_a_class_away(
    counts: list[int], folds: int, seed: int
) -> None:
    labels_N = np.repeat(np.arange(len(counts)), counts)
    fold_N = stratified_folds(labels_N, folds, seed)
    for label, count in enumerate(counts):
        own = fold_N[labels_N == label]
        if count == 1:
            assert own.tolist() == [ALWAYS_TRAINING]
            continue
        sizes = np.bincount(own, minlength=folds)
        assert sizes.max() - sizes.min() <= 1
        assert (sizes < count).all() or count == 0


def test_seeded_and_random() -> None:
    labels_N = np.repeat([0, 1], 30)
    assert (stratified_folds(labels_N, 3, 0) == stratified_folds(labels_N, 3, 0)).all()
    assert (stratified_folds(labels_N, 3, 0) != stratified_folds(labels_N, 3, 1)).any()


def test_small_classes_do_not_all_meet_in_one_fold() -> None:
    labels_N = np.repeat(np.arange(200), 2)
    sizes = np.bincount(stratified_folds(labels_N, 5, 0), minlength=5)
    assert sizes.min() > 50
