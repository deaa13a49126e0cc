"""The two stores: one uint8 tensor for images that fit in memory, files behind a DataLoader for those that do not."""

from __future__ import annotations

import hashlib
import os
import signal
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from nasimb.data.decode import UnreadableImage, decode
from nasimb.data.transfer import send
from nasimb.errors import ImageLostError
from nasimb.visible import encodable

# Pixels, or why there are none: a worker process that raises holds the end of the run up for five seconds.
Loaded = Tensor | str

DECODING_THREADS = 8  # heuristic: Pillow works outside the interpreter lock, and disks like a few requests at once


def content_hash(pixels: bytes | memoryview) -> str:
    """The hash of one image's stored pixels, 32 hex digits."""
    return hashlib.blake2b(pixels, digest_size=16).hexdigest()


class TensorStore:
    """All images as one uint8 tensor [N, C, S, S], on the device if it is to be read there."""

    def __init__(self, images_NCHW: Tensor, origins: Sequence[tuple[str, int]]) -> None:
        """Take the pixels over.

        Args:
            images_NCHW: uint8, square images.
            origins: (name, count) of consecutive runs of images; the images of a run are numbered, one alone is not.
        """
        assert images_NCHW.dtype == torch.uint8
        assert images_NCHW.ndim == 4
        assert images_NCHW.shape[2] == images_NCHW.shape[3]
        self._images_NCHW = images_NCHW.contiguous()
        self._origins = tuple(origins)
        self._ends = list(accumulate(count for _, count in origins))
        self._hashes: list[str] | None = None
        self.channels = int(images_NCHW.shape[1])
        self.size = int(images_NCHW.shape[2])

    def __len__(self) -> int:
        return len(self._images_NCHW)

    def read(self, indices_B: Tensor, device: torch.device) -> Tensor:
        """uint8 [B, C, S, S] on `device`."""
        if self._images_NCHW.device.type != "cpu":
            return self._images_NCHW[send(indices_B, self._images_NCHW.device)].to(device)
        # NumPy copies whole images in one thread: 0.02 ms for 256 of 3x32x32, against 0.15 to 1.4 ms with torch in one
        # thread and 16 ms with two on a busy two-core machine (torch 2.15).
        images_BCHW = torch.from_numpy(self._images_NCHW.numpy()[indices_B.cpu().numpy()])
        return send(images_BCHW, device)

    def stream(self, index_batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
        """`read` of every batch in turn; copies to a GPU run one batch ahead."""
        if self._images_NCHW.device.type == device.type:
            yield from (self.read(indices_B, device) for indices_B in index_batches)
            return
        ahead: Tensor | None = None
        for indices_B in index_batches:
            following = self.read(indices_B, device)
            if ahead is not None:
                yield ahead
            ahead = following
        if ahead is not None:
            yield ahead

    def hashes(self) -> list[str]:
        """Content hash of every image, computed once."""
        if self._hashes is None:
            row_bytes = self.channels * self.size**2
            pixels = memoryview(self._images_NCHW.cpu().numpy().tobytes())
            self._hashes = [
                content_hash(pixels[start : start + row_bytes]) for start in range(0, len(pixels), row_bytes)
            ]
        return self._hashes

    def name(self, index: int) -> str:
        """The name of the image's run, and its number within it."""
        run = bisect_right(self._ends, index)
        name, count = self._origins[run]
        return name if count == 1 else f"{name}[{index - self._ends[run] + count}]"


class FileStore:
    """Images that stay in their files and are decoded, several ahead, whenever they are read."""

    def __init__(
        self, paths: Sequence[Path], *, size: int, channels: int, workers: int, hashes: list[str], pin_memory: bool
    ) -> None:
        """Take the listing over; every file must already have been found readable.

        Args:
            size: side every image is resized to, pixels.
            workers: decoding processes; 0 decodes in threads of this process.
            hashes: content hash of every image at this size and these channels.
            pin_memory: whether batches will go to a GPU.
        """
        self._files = _Files(tuple(paths), size, channels)
        self._workers, self._pin_memory = workers, pin_memory
        self._hashes = hashes
        # Starting processes is slow, so loaders outlive an iteration; one that is in use is never shared.
        self._idle: list[tuple[DataLoader[Loaded], _Batches]] = []
        self.channels, self.size = channels, size

    def __len__(self) -> int:
        return len(self._files)

    def read(self, indices_B: Tensor, device: torch.device) -> Tensor:
        """uint8 [B, C, S, S] on `device`, decoded in threads."""
        with ThreadPoolExecutor(DECODING_THREADS) as threads:
            return _readable(_collate(list(threads.map(self._files.__getitem__, indices_B.tolist())))).to(device)

    def stream(self, index_batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
        """`read` of every batch in turn, decoded ahead by the worker processes, in the order asked for."""
        if self._workers == 0:
            yield from self._stream_threads(index_batches, device)
            return
        loader, batches = self._idle.pop() if self._idle else self._new_loader()
        batches.current = index_batches
        for images_BCHW in loader:
            yield _readable(images_BCHW).to(device, non_blocking=self._pin_memory)
        # Only after a whole pass: a loader that was left half-way, or failed, is dropped with its processes.
        self._idle.append((loader, batches))

    def hashes(self) -> list[str]:
        """Content hash of every image, known from when the files were first read."""
        return self._hashes

    def name(self, index: int) -> str:
        """The image's path."""
        return encodable(self._files.paths[index])

    def _stream_threads(self, index_batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
        with ThreadPoolExecutor(1) as ahead:
            waiting = None
            for indices_B in index_batches:
                following = ahead.submit(self.read, indices_B, device)
                if waiting is not None:
                    yield waiting.result()
                waiting = following
            if waiting is not None:
                yield waiting.result()

    def _new_loader(self) -> tuple[DataLoader[Loaded], _Batches]:
        batches = _Batches()
        loader = DataLoader(
            self._files,
            batch_sampler=batches,
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=self._pin_memory,
            persistent_workers=True,
            worker_init_fn=_leave_signals_to_main,
            # Its own generator: by default a loader draws its seed from torch's global one.
            generator=torch.Generator(),
        )
        return loader, batches


class _Files(Dataset[Loaded]):
    """Path to pixels; plain values only, so that worker processes can be started in any way."""

    def __init__(self, paths: tuple[Path, ...], size: int, channels: int) -> None:
        self.paths, self.size, self.channels = paths, size, channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Loaded:
        try:
            return torch.from_numpy(decode(self.paths[index], self.size, self.channels))
        except UnreadableImage as error:
            return f"{encodable(self.paths[index])} ({error})"


class _Batches(Sampler[list[int]]):
    """The index batches of the iteration that is about to start."""

    def __init__(self) -> None:
        self.current: Iterable[Tensor] = ()

    def __iter__(self) -> Iterator[list[int]]:
        return (indices_B.tolist() for indices_B in self.current)


def _leave_signals_to_main(worker: int) -> None:
    """Signals to the whole group (Ctrl-C, torchrun's SIGTERM) reach workers too; when to stop is for main to say."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()


def _collate(items: list[Loaded]) -> Loaded:
    """One batch, or what is wrong with its first bad file."""
    bad = [item for item in items if isinstance(item, str)]
    return bad[0] if bad else torch.stack([item for item in items if isinstance(item, Tensor)])


def _readable(loaded: Loaded) -> Tensor:
    if isinstance(loaded, str):
        do = "Restore it, and give the same command again to go on."
        raise ImageLostError("image files must stay readable while they are used", got=loaded, do=do)
    return loaded
