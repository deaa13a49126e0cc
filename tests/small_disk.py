"""A disk of a few MiB, mounted for a test, and a way to fill it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest


@contextmanager
def small_disk(folder: Path, *, mib: int, options: str = "") -> Iterator[Path]:
    """An empty tmpfs; skips the test where this process may not mount one."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    size = f"size={mib}m{options}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """The disk is kept full, whatever is deleted on it meanwhile."""
    file, over = folder / "filler", Event()
    file.touch()

    def fill() -> None:
        for size in (65536, 4096, 1):
            try:
                while True:
                    with file.open("ab", buffering=0) as filling:
                        filling.write(b"x" * size)
            except OSError:
                continue

    def keep_full() -> None:
        while not over.wait(0.01):
            fill()

    fill()
    thread = Thread(target=keep_full)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        file.unlink()
