"""Image files as batches of pixels, decoded in threads while the batch before is at work.

Shapes: B images of a batch, C channels, S side in pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nasimb.data.decode import UnreadableImage, decode
from nasimb.data.store import DECODING_THREADS

FILES_OF_A_TASK = 16
"""Enough that handing it to a thread costs nothing beside decoding, few enough that a batch keeps all threads busy."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """Consecutive files.

    Attributes:
        images_BCHW: uint8, of the files that could be read.
        paths: of those, in order.
        unreadable: (file, reason) of the others.
    """

    images_BCHW: Tensor
    paths: tuple[Path, ...]
    unreadable: tuple[tuple[Path, str], ...]


def decoded(
    paths: Sequence[Path], *, size: int, channels: int, batch_size: int, threads: int = DECODING_THREADS
) -> Iterator[Decoded]:
    """Batches of files in order; the next one is decoded meanwhile, and no more, so memory does not grow."""
    starts = iter(range(0, len(paths), batch_size))
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[_Batch] = deque()
        try:
            for _ in range(2):
                if (start := next(starts, None)) is not None:
                    ahead.append(_Batch(pool, paths[start : start + batch_size], size, channels))
            while ahead:
                done = ahead.popleft().result()
                if (start := next(starts, None)) is not None:
                    ahead.append(_Batch(pool, paths[start : start + batch_size], size, channels))
                yield done
        finally:
            # Whoever stops taking batches does not wait for those that nobody will see.
            pool.shutdown(wait=True, cancel_futures=True)


class _Batch:
    """Files that threads are decoding into one array."""

    def __init__(self, pool: ThreadPoolExecutor, paths: Sequence[Path], size: int, channels: int) -> None:
        self._paths, self._size, self._channels = paths, size, channels
        self._pixels_BCHW = np.empty((len(paths), channels, size, size), np.uint8)
        rows = [
            range(start, min(start + FILES_OF_A_TASK, len(paths))) for start in range(0, len(paths), FILES_OF_A_TASK)
        ]
        self._tasks: list[Future[dict[int, str]]] = [pool.submit(self._read, part) for part in rows]

    def _read(self, rows: range) -> dict[int, str]:
        """Decode some of the files; reasons of those that could not be."""
        reasons = {}
        for row in rows:
            try:
                self._pixels_BCHW[row] = decode(self._paths[row], self._size, self._channels)
            except UnreadableImage as error:
                reasons[row] = str(error)
        return reasons

    def result(self) -> Decoded:
        """Wait for all."""
        reasons = {row: reason for task in self._tasks for row, reason in task.result().items()}
        good = [row for row in range(len(self._paths)) if row not in reasons]
        pixels_BCHW = self._pixels_BCHW[good] if reasons else self._pixels_BCHW
        unreadable = tuple((self._paths[row], reason) for row, reason in reasons.items())
        return Decoded(torch.from_numpy(pixels_BCHW), tuple(self._paths[row] for row in good), unreadable)
