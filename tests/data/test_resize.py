from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from nasimb.data.resize import CHUNK, convert_channels, resize


def random_images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_resizing_agrees_with_pillow():
    images = random_images(3, 3, 20, 30)
    for size in (8, 20, 40):
        found = resize(images, size)
        for image, small in zip(images, found, strict=True):
            pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BILINEAR)
            assert np.abs(np.asarray(pillow).astype(int) - small.permute(1, 2, 0).numpy().astype(int)).max() <= 1


def test_the_right_size_is_left_alone():
    images = random_images(2, 1, 8, 8)
    assert resize(images, 8) is images
    assert resize(torch.full((1, 1, 8, 8), 15.9375), 8).unique().tolist() == [16]


def test_chunks_leave_no_seam():
    images = random_images(CHUNK + 3, 1, 4, 4)
    found = resize(images, 2)
    assert len(found) == CHUNK + 3
    assert torch.equal(found[CHUNK:], resize(images[CHUNK:], 2))


def test_grey_is_pillows_luma():
    images = random_images(2, 3, 16, 16)
    grey = convert_channels(images, 1)
    for image, found in zip(images, grey, strict=True):
        pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")
        assert (np.asarray(pillow) == found[0].numpy()).all()
    assert torch.equal(convert_channels(grey, 3)[:, 2], grey[:, 0])
    assert convert_channels(images, 3) is images
