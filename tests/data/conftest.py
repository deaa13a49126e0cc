from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nasimb.data.base import ImageSet
from nasimb.data.store import TensorStore


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real image data sets; tests that ask for it are skipped without one."""
    folder = os.environ.get("NASIMB_DATA")
    if not folder:
        pytest.skip("NASIMB_DATA is not set")
    return Path(folder)


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Writes a random image below tmp_path; different calls give different pixels."""
    rng = np.random.default_rng(0)

    def write(name: str, *, mode: str = "RGB", size: tuple[int, int] = (9, 7)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        bands = {"RGB": 3, "L": 1}[mode]
        pixels = rng.integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
        Image.fromarray(pixels if bands == 3 else pixels[..., 0]).save(path)
        return path

    return write


@pytest.fixture
def image_set() -> Callable[..., ImageSet]:
    """Makes a set of distinct random images with the class counts given."""

    def make(counts_K: list[int], *, size: int = 4, channels: int = 1, seed: int = 0, origin: str = "made") -> ImageSet:
        generator = torch.Generator().manual_seed(seed)
        labels_N = torch.repeat_interleave(torch.arange(len(counts_K)), torch.tensor(counts_K))
        labels_N = labels_N[torch.randperm(len(labels_N), generator=generator)]
        shape = (len(labels_N), channels, size, size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        classes = tuple(str(k) for k in range(len(counts_K)))
        return ImageSet(TensorStore(pixels, [(origin, len(labels_N))]), torch.arange(len(labels_N)), labels_N, classes)

    return make
