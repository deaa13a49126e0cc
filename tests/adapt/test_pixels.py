"""Changes of a stream that pixels show, and noise that must not count as one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nasimb.adapt.pixels import pixel_change, pixels_with


def drawn(count: int, seed: int, *, bright: float = 0.0, contrast: float = 1.0) -> Tensor:
    """Images whose brightness differs from one to the next, uint8 [B, 3, 8, 8]."""
    generator = torch.Generator().manual_seed(seed)
    of_image = 20 * torch.randn(count, 3, 1, 1, generator=generator)
    pixels = 120 + bright + of_image + contrast * 30 * torch.randn(count, 3, 8, 8, generator=generator)
    return pixels.clamp(0, 255).round().to(torch.uint8)


def test_moments_of_pixels_are_those_of_all_images_so_far() -> None:
    first, second = drawn(5, 0), drawn(9, 1)
    found = pixels_with(pixels_with(None, first), second)
    expected = torch.cat([first, second]).double().numpy()
    np.testing.assert_allclose(found.moments.mean_C, expected.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.moments.var_C, expected.var((0, 2, 3)), rtol=1e-4)
    assert found.images == 14


def test_large_images_are_looked_at_in_part_and_vectors_as_they_are() -> None:
    large = torch.zeros(2, 3, 64, 64)
    large[:, :, ::4, ::4] = 1.0  # every fourth pixel of 64 is what is seen
    assert torch.equal(pixels_with(None, large).moments.mean_C, torch.ones(3))
    assert pixels_with(None, torch.rand(4, 7)).moments.mean_C.shape == (7,)


@given(st.integers(0, 300), st.integers(32, 64))
def test_more_of_the_same_is_no_change(seed: int, count: int) -> None:
    assert pixel_change(pixels_with(None, drawn(256, 1000 + seed)), pixels_with(None, drawn(count, seed))) < 0.1


@pytest.mark.parametrize("change", [{"bright": 40.0}, {"contrast": 0.3}, {"contrast": 2.5}])
def test_other_light_is_a_change(change: dict[str, float]) -> None:
    stream = pixels_with(None, drawn(256, 0))
    assert pixel_change(stream, pixels_with(None, drawn(64, 1, **change))) > 0.3
