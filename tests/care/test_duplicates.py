from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from care.pairs import digits, made, pixels
from nasimb.care.duplicates import LEAST_CORRELATION, MOST_TWINS, NearDuplicates, near_duplicates
from nasimb.data import parse_dataset
from nasimb.data.base import LoadRequest


def photos(count: int, size: int = 32) -> Tensor:
    """Distinct colour patches [N, 3, size, size] of two photos, each 4 x size pixels of it, bare skies left out."""
    found = []
    for photo in load_sample_images().images:
        side = 4 * size
        for top in range(0, photo.shape[0] - side + 1, side):
            for left in range(0, photo.shape[1] - side + 1, side):
                patch = Image.fromarray(photo[top : top + side, left : left + side]).resize((size, size))
                if np.array(patch.convert("L")).std() > 25:
                    found.append(torch.from_numpy(np.array(patch)).permute(2, 0, 1))
    assert len(found) >= count
    return torch.stack(found)[:count]


def jpeg(image_CHW: Tensor, quality: int) -> Tensor:
    written = io.BytesIO()
    Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).save(written, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(written))).permute(2, 0, 1)


def together(one: Tensor, other: Tensor) -> NearDuplicates:
    labels = (torch.zeros(len(one), dtype=torch.int64), torch.zeros(len(other), dtype=torch.int64))
    return near_duplicates({"train": made(one, labels[0], ("a",)), "test": made(other, labels[1], ("a",))})


def grey(image_CHW: Tensor) -> Tensor:
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return (image_CHW * luma).sum(0, keepdim=True).expand(3, -1, -1).round().byte()


CHANGES = {
    "compressed": lambda x: jpeg(x, 60),
    "darker": lambda x: (0.7 * x).round().byte(),
    "less contrast": lambda x: (0.6 * x + 60).round().byte(),
    "smaller": lambda x: torch.from_numpy(
        np.array(Image.fromarray(x.permute(1, 2, 0).numpy()).resize((26, 26)).resize((32, 32)))
    ).permute(2, 0, 1),
    "grey": grey,
    "a little noise": lambda x: (
        (x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 4).clamp(0, 255).round().byte()
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_across_splits_are_found(change: str) -> None:
    train = photos(20)
    found = together(train, torch.stack([CHANGES[change](train[i]) for i in (3, 8, 14)]))
    pairs = found.across
    assert set(zip(pairs["position_a"], pairs["position_b"], strict=True)) == {(3, 0), (8, 1), (14, 2)}
    assert (pairs["split_a"] == "train").all()
    assert (pairs["split_b"] == "test").all()
    assert len(found.pairs) == 3


@pytest.mark.parametrize("change", [lambda x: x.flip(2), lambda x: x.roll(6, 2), lambda x: 255 - x], ids="mri")
def test_other_pictures_are_not_found(change: Callable[[Tensor], Tensor]) -> None:
    train = photos(20)
    assert together(train, torch.stack([change(image) for image in train])).pairs.empty


def test_the_correlation_is_numpys() -> None:
    rng = np.random.default_rng(0)
    one = torch.from_numpy(rng.integers(0, 256, (1, 1, 16, 16), dtype=np.uint8))
    other = (one + torch.from_numpy(rng.normal(0, 6, (1, 1, 16, 16)))).clamp(0, 255).round().byte()
    (row,) = together(one, other).pairs.to_dict("records")
    expected = np.corrcoef(one.flatten().numpy(), other.flatten().numpy())[0, 1]
    assert row["correlation"] == pytest.approx(expected, abs=1e-5)
    assert expected >= LEAST_CORRELATION


def test_equal_images_are_for_the_other_check() -> None:
    train = photos(5)
    assert together(train, train).pairs.empty


def test_plain_images_are_counted_and_not_paired() -> None:
    rng = np.random.default_rng(0)
    levels = torch.from_numpy(rng.integers(0, 256, (100, 1, 1, 1)))
    noise = torch.from_numpy(rng.normal(0, 3, (100, 1, 32, 32)))
    found = together((levels + noise).clamp(0, 255).round().byte(), photos(1)[:, :1])
    assert found.plain == 100
    assert found.pairs.empty


def test_a_kind_of_image_that_many_resemble_does_not_flood() -> None:
    ramp = torch.linspace(0, 200, 32)[None, None, :, None].expand(60, 1, 32, 32)
    noise = torch.randn((60, 1, 32, 32), generator=torch.Generator().manual_seed(0)) * 5
    skies = (ramp + noise).clamp(0, 255).round().byte()
    found = together(skies, photos(3)[:, :1])
    assert found.alike == 60
    assert found.pairs.empty
    few = together(skies[: MOST_TWINS + 1], photos(3)[:, :1])
    assert few.alike == 0
    assert len(few.pairs) == (MOST_TWINS + 1) * MOST_TWINS // 2


def test_blocks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = digits()
    whole = near_duplicates({"train": parts.train, "test": parts.test})
    monkeypatch.setattr("nasimb.care.duplicates.BLOCK_VALUES", 1)
    rows = near_duplicates({"train": parts.train, "test": parts.test})
    names = ["image_a", "image_b"]
    assert whole.pairs[names].sort_values(names).values.tolist() == rows.pairs[names].sort_values(names).values.tolist()


def test_too_many_images_are_thinned_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasimb.care.duplicates.MOST_IMAGES", 10)
    found = together(photos(10), photos(5))
    assert found.left_out == 15 - 5 - 3


def test_few_of_the_unrelated_are_taken_for_twins() -> None:
    found = near_duplicates({"train": digits().train})
    assert len(found.pairs) <= 2
    shown = pixels(digits().train)
    for row in found.pairs.to_dict("records"):
        assert not torch.equal(shown[row["position_a"]], shown[row["position_b"]])


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(("name", "images", "most"), [("plankton32", 8000, 0.005), ("cifar10", 8000, 0.005)])
def test_real_data_are_not_flooded(name: str, images: int, most: float) -> None:
    folder = os.environ.get("NASIMB_DATA")
    if not folder:
        pytest.skip("NASIMB_DATA is not set")
    train = parse_dataset(str(Path(folder) / f"{name}.npz")).read(LoadRequest(size=32)).train
    found = near_duplicates({"train": train.subset(torch.arange(0, len(train), len(train) // images))})
    assert len(found.pairs) <= most * images
