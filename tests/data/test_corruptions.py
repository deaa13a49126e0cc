"""Corruptions against their definitions by hand, and their promise that no batch matters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor

from nasimb.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from nasimb.errors import InputError


def noise_images(count: int, channels: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def smooth_images(count: int, channels: int, side: int) -> Tensor:
    coarse = torch.rand((count, channels, 4, 4), generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    return (255 * fine).clamp(0, 255).to(torch.uint8)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).square().mean().sqrt())


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32), (3, 12)])
@pytest.mark.parametrize("name", CORRUPTIONS)
@settings(max_examples=8, deadline=None)
@given(cut=st.integers(1, 8), severity=st.sampled_from(SEVERITIES), seed=st.integers(0, 3))
def test_an_image_is_corrupted_alike_in_every_batch(
    name: str, channels: int, side: int, cut: int, severity: int, seed: int
) -> None:
    images = noise_images(9, channels, side)
    whole = corrupt(images, name, severity, seed=seed)
    parts = torch.cat([corrupt(part, name, severity, seed=seed) for part in (images[:cut], images[cut:])])
    backwards = corrupt(images.flip(0), name, severity, seed=seed).flip(0)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    assert torch.equal(whole, parts)
    assert torch.equal(whole, backwards)


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severities_grow(name: str, channels: int, side: int) -> None:
    images = smooth_images(20, channels, side)
    away = [distance(images, corrupt(images, name, severity)) for severity in SEVERITIES]
    # Where the edges of the blocks fall moves more pixels than one block more or less a side.
    assert name == "pixelate" or away == sorted(away)
    assert 0 < away[0] < away[-1]


@pytest.mark.parametrize("name", ["noise", "fog"])
def test_what_is_random_follows_the_seed_and_the_image(name: str) -> None:
    images = smooth_images(4, 3, 32)
    assert not torch.equal(corrupt(images, name, 3, seed=0), corrupt(images, name, 3, seed=1))
    added = corrupt(images, name, 3).float() - images.float()
    assert not torch.equal(added[0], added[1])


def test_noise_has_the_strength_it_says() -> None:
    grey = torch.full((8, 3, 32, 32), 128, dtype=torch.uint8)
    grey[:, 0, 0, 0] = torch.arange(8, dtype=torch.uint8)  # eight different images
    added = corrupt(grey, "noise", 5)[:, :, 1:].float() - 128
    assert float(added.std()) / 255 == pytest.approx(0.10, rel=0.02)
    assert abs(float(added.mean())) < 0.7
    rows = added.flatten(1).numpy()
    assert abs(np.corrcoef(rows) - np.eye(8)).max() < 0.1
    small = torch.full((200, 1, 8, 8), 128, dtype=torch.uint8)
    small[:, 0, 0, 0] = torch.arange(200, dtype=torch.uint8)
    added = corrupt(small, "noise", 1)[:, :, 1:].float() - 128
    assert float(added.std()) / 255 == pytest.approx(4 * 0.04, rel=0.03)


@pytest.mark.parametrize(("side", "sigma"), [(32, 1.0), (8, 1.0), (64, 2.0)])
def test_blur_is_a_gaussian_of_this_many_pixels(side: int, sigma: float) -> None:
    images = noise_images(3, 3, side)
    blurred = corrupt(images, "blur", 5).numpy().astype(float)
    by_hand = gaussian_filter(images.numpy().astype(float), sigma, mode="mirror", truncate=3.0, axes=(2, 3))
    # Rounding moves a value by half; one of 8 pixels ends the kernel sooner than scipy does.
    assert np.abs(blurred - by_hand).max() <= 0.51


def test_contrast_shrinks_differences_from_the_mean() -> None:
    images = noise_images(3, 1, 8).float().mul(0.5).add(60).to(torch.uint8)
    lower = corrupt(images, "contrast", 2).float()
    mean = images.float().mean((1, 2, 3), keepdim=True)
    assert (lower - (mean + 0.5 * (images.float() - mean))).abs().max() <= 0.51


def test_fog_brightens_what_is_dark_and_keeps_the_brightest() -> None:
    images = smooth_images(10, 3, 32)
    foggy = corrupt(images, "fog", 5)
    assert (foggy.amax((1, 2, 3)) <= images.amax((1, 2, 3))).all()
    dark = torch.zeros_like(images)
    dark[:, :, 0, 0] = 255
    dark[:, 0, 0, 1] = torch.arange(10, dtype=torch.uint8)
    # A black place is left with strength / (1 + strength) of the cloud over it, alike in all channels.
    cloud = corrupt(dark, "fog", 5)[:, :, 2:]
    assert torch.equal(cloud[:, 0], cloud[:, 1])
    assert int(cloud.max()) <= 0.6 * 255 + 0.5
    assert 0.2 * 255 < float(cloud.float().mean()) < 0.4 * 255


def test_pixelated_images_are_blocks_of_means() -> None:
    images = noise_images(2, 1, 8)
    blocks = corrupt(images, "pixelate", 5)  # 8 * 0.65 = 5 blocks a side
    assert all(len(torch.unique_consecutive(image[0], dim=0)) <= 5 for image in blocks)
    # The first block of 5 over 8 pixels averages pixels 0 and 1.
    assert blocks[:, 0, 0, 0].tolist() == images[:, 0, :2, :2].float().mean((1, 2)).round().to(torch.uint8).tolist()
    flat = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    assert torch.equal(corrupt(flat, "pixelate", 5), flat)


def test_what_cannot_be_corrupted_is_said() -> None:
    images = noise_images(1, 1, 8)
    with pytest.raises(InputError, match="'noise'"):
        corrupt(images, "noize", 3)
    with pytest.raises(InputError, match="from 1 to 5; got 6"):
        corrupt(images, "noise", 6)
    with pytest.raises(InputError, match=r"uint8 \[B, C, H, W\]; got torch.float32 \[1, 1, 8, 8\]"):
        corrupt(images.float(), "noise", 1)


def test_no_images_are_no_images() -> None:
    assert corrupt(noise_images(0, 3, 8), "noise", 1).shape == (0, 3, 8, 8)
