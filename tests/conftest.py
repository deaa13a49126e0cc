"""What several rooms test with: one finished run, and folders of pictures. And how tests share two processes.

What takes long to import is imported where it is used: the process that only hands tests out needs none of it.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings
from postgres import Postgres

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads stall a busy machine
gc.disable()  # until all is imported: imports make a million objects, and no garbage
settings.register_profile("any machine", deadline=None)  # how long an example takes is the machine's matter
settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for the whole suite; for a few tests that are named, the imports of a second take too long."""
    return min(2, os.cpu_count() or 1) if config.args == config.getini("testpaths") else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def hardly_a_wait() -> Iterator[None]:
    """One thread; and two things that every run waits for and no test needs.

    Latencies of tiny networks are measured for 2 ms instead of 0.2 s, and no power cut is to be feared: a kill loses
    nothing that a process has written, flushed to the disk or not.
    """
    import torch

    import nasimb.phases.evaluate

    torch.set_num_threads(1)
    quickly = partial(nasimb.phases.evaluate.latency, min_run_seconds=0.002)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nasimb.phases.evaluate, "latency", quickly)
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run on the digits 0 to 4. Copy it before changing anything in it."""
    from tiny_run import DATA, tiny_config

    from nasimb.pipeline import run_search

    folder = tmp_path_factory.mktemp("finished")
    config = tiny_config(folder, data={**DATA, "digits": (0, 1, 2, 3, 4)}, imbalance_factor=10.0, budget="6trials")
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
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()

    def write(folder: Path, classes: Mapping[str, tuple[int, int]], *, skip: int = 0) -> Path:
        for name, (digit, count) in classes.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in np.flatnonzero(found.target == digit)[skip : skip + count].tolist():
                pixels = (found.images[number] * (255 / 16)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{number}.png")
        return folder

    return write
