"""Crops for the last refit: the same ones every time, and class counts that stay those of images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nasimb.data.base import ImageSet
from nasimb.data.store import TensorStore
from nasimb.heads import HEADS
from nasimb.heads.compare import fit_head
from nasimb.phases import crops as crops_module
from nasimb.phases.crops import Crops

PENALTIES = (0.1, 0.01)


@pytest.fixture
def images() -> ImageSet:
    """Three classes of 30, 9 and 2 images of 8x8."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (41, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels_N = torch.tensor([0] * 30 + [1] * 9 + [2] * 2)
    return ImageSet(TensorStore(pixels, [("image ", 41)]), torch.arange(41), labels_N, ("a", "b", "c"))


def pixels_of(images: ImageSet) -> Tensor:
    return images.store.read(images.indices_N, torch.device("cpu")).flatten(1).float()


def test_the_first_view_is_the_image_and_the_others_move_it(images: ImageSet) -> None:
    found = Crops(3, flip=True, seed=1).features(pixels_of, images).view(3, 41, 64)
    assert torch.equal(found[0], pixels_of(images))
    assert not torch.equal(found[1], found[0])
    assert not torch.equal(found[1], found[2])
    # A shift of one pixel (an eighth of the side) at most: the inner pixels are those of a neighbour, perhaps mirrored.
    for before, after in zip(found[0].view(41, 8, 8), found[1].view(41, 8, 8), strict=True):
        shifted = [before[1 + y : 7 + y, 1 + x : 7 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)]
        inner = after[1:7, 1:7]
        assert any(torch.equal(inner, part) or torch.equal(inner, part.flip(1)) for part in shifted)


def test_the_seed_decides_the_views_and_fewer_are_the_first_of_more(images: ImageSet) -> None:
    two, four, other = (Crops(count, seed=seed).features(pixels_of, images) for count, seed in ((2, 0), (4, 0), (2, 1)))
    assert torch.equal(four[:82], two)
    assert torch.equal(other[:41], two[:41])
    assert not torch.equal(other, two)


def test_one_crop_is_the_image_alone(images: ImageSet) -> None:
    features_ND, labels_N = pixels_of(images), images.labels_N
    assert torch.equal(Crops().features(pixels_of, images), features_ND)
    for head in ("balanced_softmax", "ridge"):
        fitted = Crops().fit(head, features_ND, labels_N, 3, 0.1, PENALTIES)
        expected = fit_head(head, features_ND, labels_N, 3, 0.1, PENALTIES)
        assert torch.equal(fitted.weight_KD, expected.weight_KD)
        assert (fitted.name, fitted.setting) == (expected.name, expected.setting)


@pytest.mark.parametrize(
    "head",
    [
        "cross_entropy",
        "balanced_softmax",
        {"name": "class_balanced", "beta": 0.9},
        {"name": "ldam", "class_balanced": True, "beta": 0.9},
        {"name": "deferred", "base": {"name": "class_balanced", "beta": 0.9}},
        {"name": "cross_entropy", "posthoc": "logit_adjustment", "tau": 1.5},
        {"name": "cross_entropy", "posthoc": "tau_normalisation", "tau": 0.5},
        {"name": "logit_adjusted", "tau": 0.5},
        "ridge",
    ],
    ids=str,
)
def test_copies_of_an_image_count_as_one(images: ImageSet, head: Any) -> None:
    """Crops that do not differ must give the head that single images give, whatever it does with class counts."""
    features_ND = torch.randn(41, 5, generator=torch.Generator().manual_seed(1)) + images.labels_N[:, None]
    expected = fit_head(head, features_ND, images.labels_N, 3, 0.1, PENALTIES)
    found = Crops(4).fit(head, features_ND.repeat(4, 1), images.labels_N, 3, 0.1, PENALTIES)
    torch.testing.assert_close(found.weight_KD, expected.weight_KD, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.bias_K, expected.bias_K, rtol=1e-3, atol=1e-4)
    assert (found.name, found.setting) == (expected.name, expected.setting)


@pytest.mark.parametrize("head", [*HEADS, "balanced_softmax"])
def test_every_kind_of_head_takes_crops(images: ImageSet, head: str) -> None:
    crops = Crops(2)
    features_MD = crops.features(pixels_of, images)
    fitted = crops.fit(head, features_MD, images.labels_N, 3, 0.1, PENALTIES)
    assert torch.isfinite(fitted.logits(features_MD)).all()
    assert fitted.name == fit_head(head, pixels_of(images), images.labels_N, 3, 0.1, PENALTIES).name


def test_no_more_crops_than_their_features_have_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops_module, "CROPS_MIB", 10)
    asked = Crops(8)
    assert asked.fitting(2**18, 2).count == 5  # 2 MiB a view
    assert asked.fitting(2**18, 2).notes(8) == [
        "Heads are fitted to 5 crops of every image: the features of 8 need more than 10 MiB."
    ]
    assert asked.fitting(2**20, 100).count == 1
    assert asked.fitting(1000, 2) == asked == replace(asked)
    assert asked.notes(8) == []
