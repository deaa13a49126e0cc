from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run on the digits 0 to 4, to be changed at will."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="session")
def write_site() -> Callable[..., Path]:
    """Writes so many images of each of the digits 0 to 4, all changed in one way, one folder a class."""
    found = load_digits()

    def write(folder: Path, change: Callable[[np.ndarray], np.ndarray] = lambda x: x, *, each: int = 40) -> Path:
        for digit in range(5):
            (folder / str(digit)).mkdir(parents=True)
            for number in np.flatnonzero(found.target == digit)[:each].tolist():
                pixels = np.clip(change(found.images[number] * (255 / 16)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / str(digit) / f"{number}.png")
        return folder

    return write
