"""Many image files to one store: decoded once into memory if they fit, else left in place and streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from nasimb.data.base import ImageStore, LoadRequest, first_of
from nasimb.data.decode import SUFFIXES, UnreadableImage, decode, native_channels
from nasimb.data.store import DECODING_THREADS, FileStore, TensorStore, content_hash
from nasimb.errors import DataError
from nasimb.visible import encodable

T = TypeVar("T")
BLOCK = 2048  # files in flight at once: keeps a million paths from becoming a million waiting tasks


@dataclass(frozen=True)
class LoadedFiles:
    """A store over the readable files.

    Attributes:
        kept: positions, in the listing asked for, of the files in the store, in store order.
        skipped: "path (reason)" of the others.
    """

    store: ImageStore
    kept: tuple[int, ...]
    skipped: tuple[str, ...]


def load_files(paths: Sequence[Path], request: LoadRequest) -> LoadedFiles:
    """Read every file once.

    Raises:
        DataError: an unreadable image or another kind of file, unless `request.skip_bad_images`.
    """
    reasons: dict[int, str] = {}
    channels = request.channels or _native_channels(paths, request, reasons)
    kept = [position for position in range(len(paths)) if position not in reasons]
    readable = [paths[position] for position in kept]
    if request.fits(len(readable), channels):
        store, bad = _in_memory(readable, request, channels)
    else:
        store, bad = _in_place(readable, request, channels)
    reasons.update((kept[row], reason) for row, reason in bad.items())
    _complain(paths, reasons, request)
    skipped = tuple(f"{encodable(paths[position])} ({reasons[position]})" for position in sorted(reasons))
    return LoadedFiles(store, tuple(position for position in kept if position not in reasons), skipped)


def _native_channels(paths: Sequence[Path], request: LoadRequest, reasons: dict[int, str]) -> int:
    channels = 1
    for position, found in enumerate(_in_threads(native_channels, paths)):
        if isinstance(found, UnreadableImage):
            reasons[position] = str(found)
        else:
            channels = max(channels, found)
    # Headers are quick: complain now rather than after decoding everything.
    _complain(paths, reasons, request)
    return channels


def _in_memory(paths: Sequence[Path], request: LoadRequest, channels: int) -> tuple[ImageStore, dict[int, str]]:
    images_NCHW = torch.empty((len(paths), channels, request.size, request.size), dtype=torch.uint8)
    bad = {}
    for row, pixels in enumerate(_in_threads(lambda path: decode(path, request.size, channels), paths)):
        if isinstance(pixels, UnreadableImage):
            bad[row] = str(pixels)
        else:
            images_NCHW[row] = torch.from_numpy(pixels)
    good = [row for row in range(len(paths)) if row not in bad]
    images_NCHW = images_NCHW[good] if bad else images_NCHW
    return TensorStore(images_NCHW.to(request.device), [(encodable(_origin(paths[row])), 1) for row in good]), bad


def _in_place(paths: Sequence[Path], request: LoadRequest, channels: int) -> tuple[ImageStore, dict[int, str]]:
    hashes, bad = [], {}
    found = _in_threads(lambda path: content_hash(decode(path, request.size, channels).tobytes()), paths)
    for row, content in enumerate(found):
        if isinstance(content, UnreadableImage):
            bad[row] = str(content)
        else:
            hashes.append(content)
    store = FileStore(
        [_origin(path) for row, path in enumerate(paths) if row not in bad],
        size=request.size,
        channels=channels,
        workers=request.workers,
        hashes=hashes,
        pin_memory=request.device.type == "cuda",
    )
    return store, bad


def _origin(path: Path) -> Path:
    # Absolute, so that the same file reached on two ways has one name.
    return path.resolve()


def _in_threads(work: Callable[[Path], T], paths: Sequence[Path]) -> Iterator[T | UnreadableImage]:
    """`work` of every path, in order; a file that does not decode gives its error instead."""

    def attempt(path: Path) -> T | UnreadableImage:
        try:
            return work(path)
        except UnreadableImage as error:
            return error

    with ThreadPoolExecutor(DECODING_THREADS) as threads:
        for start in range(0, len(paths), BLOCK):
            yield from threads.map(attempt, paths[start : start + BLOCK])


def _complain(paths: Sequence[Path], reasons: dict[int, str], request: LoadRequest) -> None:
    if not reasons or request.skip_bad_images:
        return
    bad = [(paths[position], reasons[position]) for position in sorted(reasons)]
    got = first_of([f"{encodable(path)} ({reason})" for path, reason in bad])
    leave_out = "or leave such files out with --skip-bad-images."
    if bad[0][0].suffix.lower() not in SUFFIXES and bad[0][0].is_file():
        raise DataError("every file among the images must be an image", got=got, do=f"Move it elsewhere, {leave_out}")
    raise DataError("every image must be readable", got=got, do=f"Replace or remove it, {leave_out}")
