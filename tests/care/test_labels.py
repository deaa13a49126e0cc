from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from care.pairs import digits, long_tail, made
from nasimb.care.features import simple
from nasimb.care.labels import LabelErrors, label_errors, require_cleanlab
from nasimb.data.base import ImageSet
from nasimb.errors import InputError

pytest.importorskip("cleanlab", reason="needs cleanlab: pip install nasimb[inspect]")


def planted(images: ImageSet, share: float, seed: int) -> tuple[ImageSet, Tensor]:
    """The images with so many labels replaced by another class; positions of those."""
    rng = np.random.default_rng(seed)
    wrong = torch.from_numpy(rng.choice(len(images), round(share * len(images)), replace=False))
    labels_N = images.labels_N.clone()
    shift = torch.from_numpy(rng.integers(1, images.num_classes, len(wrong)))
    labels_N[wrong] = (labels_N[wrong] + shift) % images.num_classes
    return ImageSet(images.store, images.indices_N, labels_N, images.classes), wrong


def found_in(images: ImageSet) -> LabelErrors:
    found = label_errors(images, simple().of(images), by="simple")
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(3))
def test_sixty_of_a_hundred_planted_errors_are_in_the_first_tenth(seed: int) -> None:
    images, wrong = planted(digits().train, 0.05, seed)
    found = found_in(images)
    first = set(found.ranked["position"].head(len(images) // 10))
    assert len(first & set(wrong.tolist())) / len(wrong) >= 0.6
    # Most of those that cleanlab suspects were planted, and they come first.
    suspected = found.suspected
    assert suspected["position"].isin(wrong.tolist()).mean() > 0.6
    assert found.ranked["quality"].is_monotonic_increasing


@pytest.mark.parametrize("seed", range(3))
def test_planted_errors_are_found_in_a_long_tail_too(seed: int) -> None:
    images, wrong = planted(long_tail(digits().train, 10.0), 0.05, seed)
    first = set(found_in(images).ranked["position"].head(len(images) // 10))
    assert len(first & set(wrong.tolist())) / len(wrong) >= 0.6


def test_a_row_says_what_the_image_is_and_what_it_looks_like() -> None:
    images = digits(0, 1).train
    labels_N = images.labels_N.clone()
    labels_N[7] = 1 - labels_N[7]
    wrong = ImageSet(images.store, images.indices_N, labels_N, ("zero", "one"))
    row = found_in(wrong).ranked.iloc[0]
    assert (row["position"], row["image"], row["suspected"]) == (7, wrong.name(7), True)
    assert row["label"] == wrong.classes[int(labels_N[7])]
    assert row["guess"] == wrong.classes[int(images.labels_N[7])]
    assert 0 <= row["quality"] < 0.5


def test_a_judge_that_knows_nothing_is_not_believed() -> None:
    train = digits().train
    drawn_N = torch.from_numpy(np.random.default_rng(0).integers(0, 10, len(train)))
    found = found_in(ImageSet(train.store, train.indices_N, drawn_N, train.classes))
    assert found.accuracy < 0.25
    assert "than can be believed" in found.lines()[1]
    sure = found_in(planted(train, 0.05, 0)[0])
    assert len(sure.lines()) == 1


def test_the_only_image_of_a_class_and_classes_without_images_are_not_judged() -> None:
    train = digits(0, 1, 2).train
    kept = torch.cat([(train.labels_N == 0).nonzero()[:9, 0], (train.labels_N == 2).nonzero()[:8, 0]])
    alone = (train.labels_N == 1).nonzero()[:1, 0]
    part = train.subset(torch.cat([alone, kept]))
    images = ImageSet(part.store, part.indices_N, part.labels_N, ("0", "1", "2"))
    found = found_in(images)
    assert found.not_judged == 1
    assert found.lines()[-1] == "Labels not judged, each of the only image of its class: 1."
    assert sorted(found.ranked["position"]) == list(range(1, 18))
    assert set(found.ranked["guess"]) <= {"0", "2"}
    assert label_errors(images.subset(torch.arange(10)), simple().of(images)[:10], by="simple") is None


def test_images_all_alike_are_judged_without_a_crash() -> None:
    plain = made(torch.zeros(8, 1, 32, 32, dtype=torch.uint8), torch.arange(8) % 2)
    assert len(found_in(plain).ranked) == 8


def test_without_cleanlab_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(InputError, match=r"nasimb\[inspect\]"):
        require_cleanlab()
