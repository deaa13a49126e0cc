"""Writing that leaves a file as it was or as it is meant to be, whatever goes wrong half-way: a kill, a full disk."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nasimb.errors import DiskFullError, InputError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
"""What a full disk and a used up quota are called."""


def check_writable(file: Path) -> None:
    """Raise InputError where the folder of a file to write is not there: hours later it would be too late."""
    if not file.parent.is_dir() or (file.exists() and not file.is_file()):
        raise InputError("a file to write must have a folder", got=file, do="Make the folder, or choose another.")


@contextmanager
def replacing(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Gives the path of a new file; when the block ends it is on the disk in the place of `path`.

    Where the block or the disk fails, `path` stays as it was and the new file is removed.

    Args:
        flush: whether it must outlast a power cut from then on.

    Raises:
        DiskFullError: there is no space. OSError: something else is wrong with the disk.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with _told_if_full(path):
            yield part
            if flush:
                _flush(part)
            part.replace(path)
            if flush:
                _flush(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextmanager
def making_folder(path: Path) -> Iterator[Path]:
    """Gives a new folder to fill; when the block ends it is on the disk as `path`, which must not be there.

    Where the block or the disk fails, it is removed. Of two at once with the same path one succeeds. A kill leaves a
    hidden folder `.NAME.DIGITS.part`, which nobody needs.

    Raises:
        InputError: `path` is there, before or after. DiskFullError, OSError: as `replacing`.
    """
    _check_absent(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with _told_if_full(path):
            part.mkdir()
            yield part
            for one in (*part.rglob("*"), part):
                _flush(one)
            _check_absent(path)
            part.rename(path)
            _flush(path.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def replace_whole(path: Path, data: bytes) -> None:
    """Write a file anew: whoever reads it sees the old one or the new one. It is on the disk on return.

    Raises:
        DiskFullError, OSError: as `replacing`; the file is as it was before.
    """
    with replacing(path) as part, part.open("wb", buffering=0) as file:
        _write(file.fileno(), data)


def append_whole(path: Path, data: bytes) -> None:
    """Append bytes and flush them to the disk; where that fails, the file is as it was before.

    Raises:
        DiskFullError, OSError: as `replacing`.
    """
    # Without a buffer: one would try again to write what is left of it when the file is closed.
    with _told_if_full(path), path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            _write(file.fileno(), data)
            os.fsync(file.fileno())
            if end == 0:
                _flush(path.parent)
        except OSError:
            os.truncate(path, end)
            raise


def leftovers(folder: Path) -> Iterator[Path]:
    """Files below `folder` that a kill kept from taking the place they were written for."""
    return (path for path in folder.rglob(".*.part") if path.is_file())


@contextmanager
def _told_if_full(path: Path) -> Iterator[None]:
    try:
        yield
    except DiskFullError:
        raise
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise disk_full(path, error) from None


def disk_full(path: Path | str, error: OSError) -> DiskFullError:
    """The sentence for an error of a full disk met with `path`."""
    return DiskFullError(
        "the disk must have space for what the run writes",
        got=f"{error.strerror} for {path}",
        do="Make space, and give the same command again to go on.",
    )


def _check_absent(path: Path) -> None:
    # An empty folder would be replaced without a word.
    if os.path.lexists(path):
        raise InputError("a folder to write must not be there yet", got=path, do="Choose another, or remove it.")


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _flush(path: Path) -> None:
    """A file's bytes, or the names in a folder, are on the disk on return."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
