"""Files come as they are, in order, whatever the batch; those that cannot be read are named."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nasimb.deliver.decoding import decoded


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """40 grey pictures of one value each; the 5th, 6th and last are damaged."""
    paths = [tmp_path / f"{value}.png" for value in range(40)]
    for value, path in enumerate(paths):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)
    for path in (paths[5], paths[6], paths[39]):
        path.write_bytes(path.read_bytes()[:30])
    return paths


@pytest.mark.parametrize("batch_size", [1, 3, 17, 64])
@pytest.mark.parametrize("threads", [1, 4])
def test_files_come_in_order(files: list[Path], batch_size: int, threads: int) -> None:
    batches = list(decoded(files, size=4, channels=1, batch_size=batch_size, threads=threads))
    values = [int(image[0, 0, 0]) for batch in batches for image in batch.images_BCHW]
    assert values == [value for value in range(40) if value not in (5, 6, 39)]
    assert [path for batch in batches for path in batch.paths] == [files[value] for value in values]
    assert [path for batch in batches for path, _ in batch.unreadable] == [files[5], files[6], files[39]]
    for batch in batches:
        assert batch.images_BCHW.shape[1:] == (1, 4, 4)
        assert batch.images_BCHW.dtype == torch.uint8
        assert len(batch.paths) + len(batch.unreadable) <= batch_size


def test_no_file_is_no_batch() -> None:
    assert list(decoded([], size=4, channels=1, batch_size=8)) == []


def test_who_stops_early_leaves_no_thread_behind(files: list[Path]) -> None:
    before = threading.active_count()
    batches = decoded(files, size=4, channels=1, batch_size=2)
    next(batches)
    batches.close()
    assert threading.active_count() == before
