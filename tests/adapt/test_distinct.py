"""Copies are known as such, and nothing else is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nasimb.adapt import distinct
from nasimb.adapt.distinct import Distinct

TYPES = [torch.float32, torch.float16, torch.float64, torch.uint8]


def drawn(images: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (images, 3, 4, 4), generator=generator).to(dtype)


def positions(seen: Distinct, images: Tensor) -> list[int]:
    """Of the new images, which are then known."""
    fresh = seen.fresh(images)
    seen.remember(fresh)
    return fresh.positions.tolist()


@pytest.mark.parametrize("dtype", TYPES)
def test_copies_in_a_batch_and_in_earlier_ones_are_not_new(dtype: torch.dtype) -> None:
    seen, images = Distinct(), drawn(6, dtype)
    assert positions(seen, images[[0, 1, 0, 2, 1]]) == [0, 1, 3]
    assert positions(seen, images[[2, 3, 3, 4, 0]]) == [1, 3]
    assert positions(seen, images[:5]) == []
    assert positions(seen, images) == [5]


@pytest.mark.parametrize("dtype", TYPES)
def test_a_single_changed_pixel_makes_a_new_image(dtype: torch.dtype) -> None:
    seen, image = Distinct(), drawn(1, dtype)
    positions(seen, image)
    others = image.repeat(48, 1, 1, 1)
    others.view(48, 48).diagonal().add_(1)
    assert positions(seen, others) == list(range(48))


def test_pixels_in_another_order_are_another_image() -> None:
    image = drawn(1)
    assert positions(Distinct(), torch.cat([image, image.flip(3), image.flip(2), image.flip(1)])) == [0, 1, 2, 3]


def test_layout_in_memory_does_not_matter() -> None:
    images = drawn(3)
    seen = Distinct()
    positions(seen, images)
    assert positions(seen, images.contiguous(memory_format=torch.channels_last)) == []


def test_nothing_is_known_before_it_is_remembered() -> None:
    seen, images = Distinct(), drawn(3)
    assert seen.fresh(images).positions.tolist() == seen.fresh(images).positions.tolist() == [0, 1, 2]


def test_copies_of_what_came_before_a_new_beginning_are_new() -> None:
    seen, images = Distinct(), drawn(4)
    seen.remember(seen.fresh(images[:3]), batch=5)
    assert seen.fresh(images, since=5).positions.tolist() == [3]
    anew = seen.fresh(images, since=6)
    assert anew.positions.tolist() == [0, 1, 2, 3]
    seen.remember(anew, batch=6)
    assert seen.fresh(images, since=6).positions.tolist() == []


def test_the_oldest_images_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distinct, "REMEMBERED", 4)
    seen, images = Distinct(), drawn(6)
    positions(seen, images)
    assert positions(seen, images[2:]) == []
    assert positions(seen, images[:2]) == [0, 1]


def test_large_batches_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images = drawn(7)[[0, 1, 2, 3, 0, 4, 5, 6, 3]]
    whole = positions(Distinct(), images)
    monkeypatch.setattr(distinct, "PRODUCTS_A_PART", 100)  # two images of 48 pixels, or one
    assert positions(Distinct(), images) == whole == [0, 1, 2, 3, 5, 6, 7]
    monkeypatch.setattr(distinct, "PRODUCTS_A_PART", 1)
    assert positions(Distinct(), images) == whole
