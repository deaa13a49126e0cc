"""Class by class: recalls against sklearn, intervals against the formula, and which classes a matrix shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

from nasimb.report.classes import MOST_SHOWN, class_table, confusion, shown_classes, wilson
from nasimb.report.tested import TestSplit
from report.made_split import made_split


def test_recalls_and_mistakes() -> None:
    split = made_split(winner=0.3)
    table = class_table(split)
    assert table["class"].tolist() == ["much", "some", "rare"]
    assert table["group"].tolist() == ["many", "medium", "few"]
    expected = recall_score(split.labels_N, split.predicted["winner"], average=None)
    np.testing.assert_allclose(table["recall"].astype(float), expected)
    assert table["most_taken_for"].tolist() == ["some", "rare", "much"], "each is taken for the next"
    assert table["times"].tolist() == [round(40 * (1 - recall)) for recall in expected]


def test_a_class_without_test_images_has_no_recall() -> None:
    split = made_split(winner=0.3)
    kept = split.labels_N != 1
    split = replace(split, labels_N=split.labels_N[kept], predicted={"winner": split.predicted["winner"][kept]})
    row = class_table(split).set_index("class").loc["some"]
    assert pd.isna(row["recall"])
    assert pd.isna(row["low"])
    assert row["test_images"] == 0


@pytest.mark.parametrize(("right", "images"), [(0, 4), (4, 4), (7, 10), (590, 600)])
def test_wilson_by_hand(right: int, images: int) -> None:
    z, p = 1.959963984540054, right / images
    middle = (p + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * (p * (1 - p) / images + z**2 / (4 * images**2)) ** 0.5
    assert wilson(right, images) == pytest.approx((middle - half, middle + half), abs=1e-9)


def test_confusion_counts_every_image() -> None:
    split = made_split(winner=0.3)
    images_KK = confusion(split)
    assert images_KK.sum() == len(split.labels_N)
    assert images_KK[0, 1] == np.sum((split.labels_N == 0) & (split.predicted["winner"] == 1))
    assert images_KK[1, 0] == 0


def test_of_many_classes_the_worst_are_shown_largest_first() -> None:
    size = MOST_SHOWN + 25
    labels_N = np.repeat(np.arange(size), 4)
    wrong_K = np.random.default_rng(0).permutation(size)[:MOST_SHOWN]
    predicted_N = np.where(np.isin(labels_N, wrong_K), (labels_N + 1) % size, labels_N)
    counts_K = np.arange(size)[::-1] + 1
    split = TestSplit(tuple(map(str, range(size))), counts_K, labels_N, {"winner": predicted_N}, None)
    assert shown_classes(split) == sorted(wrong_K.tolist()), "training images fall with the index"
