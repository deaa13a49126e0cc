"""Mean and standard deviation of pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nasimb.data.base import ImageSet
from nasimb.data.store import TensorStore
from nasimb.supernet.pixels import pixel_mean_and_std


def colour_images(pixels: np.ndarray) -> ImageSet:
    store = TensorStore(torch.from_numpy(pixels), [("image ", len(pixels))])
    # Every other image of the store belongs to the set.
    indices_N = torch.arange(0, len(pixels), 2)
    return ImageSet(store, indices_N, torch.zeros(len(indices_N), dtype=torch.int64), ("a", "b"))


def test_they_are_those_of_the_set_per_channel() -> None:
    rng = np.random.default_rng(0)
    pixels = np.stack([rng.integers(0, high, (10, 6, 6)) for high in (256, 60, 9)], axis=1).astype(np.uint8)
    mean_C, std_C = pixel_mean_and_std(colour_images(pixels))
    np.testing.assert_allclose(mean_C.numpy(), pixels[::2].mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std_C.numpy(), pixels[::2].std((0, 2, 3)), rtol=1e-6)


def test_a_sample_of_a_large_set_reaches_over_all_of_it() -> None:
    ramp = np.repeat(np.arange(200, dtype=np.uint8), 16).reshape(200, 1, 4, 4)
    mean_C, _ = pixel_mean_and_std(colour_images(ramp), limit=11)
    assert mean_C.item() == pytest.approx(99, abs=1)


def test_images_without_contrast_can_still_be_standardised() -> None:
    _, std_C = pixel_mean_and_std(colour_images(np.full((4, 3, 2, 2), 7, dtype=np.uint8)))
    assert std_C.tolist() == [1.0, 1.0, 1.0]
