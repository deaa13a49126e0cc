"""What several rooms test with: one finished run, and folders of pictures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads stall a busy machine

import numpy as np
import pytest
import torch
from PIL import Image
from postgres import Postgres
from sklearn.datasets import load_digits
from tiny_run import DATA, tiny_config

from nasimb.pipeline import run_search

FIRST_FIVE = {**DATA, "digits": (0, 1, 2, 3, 4)}


def pytest_sessionstart() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run on the digits 0 to 4. Copy it before changing anything in it."""
    folder = tmp_path_factory.mktemp("finished")
    config = tiny_config(folder, data=FIRST_FIVE, imbalance_factor=10.0, budget="6trials")
    run_search(config, folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the whole session; every test uses names of its own in it."""
    # Not below pytest's own folder, which is closed to the user that the server runs as.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder) / "data")
        yield server
        server.cleanup()


@pytest.fixture(scope="session")
def write_digits() -> Callable[..., Path]:
    """Writes real digits as PNGs, `{class: (digit, how many)}`, one folder a class."""
    found = load_digits()

    def write(folder: Path, classes: Mapping[str, tuple[int, int]], *, skip: int = 0) -> Path:
        for name, (digit, count) in classes.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in np.flatnonzero(found.target == digit)[skip : skip + count].tolist():
                pixels = (found.images[number] * (255 / 16)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{number}.png")
        return folder

    return write
