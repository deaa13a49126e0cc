"""Where a table goes: into a file that is whole or not there, or to whoever reads standard output."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from nasimb.durable import replacing
from nasimb.visible import visible


class Lines(Protocol):
    """What `csv.writer` writes to."""

    def write(self, text: str, /) -> object:
        """Take a piece of text."""


@contextmanager
def table_file(path: Path | None) -> Iterator[Lines]:
    """A file to write, in UTF-8 with names of files as the disk has them; None is standard output.

    Raises:
        DiskFullError: there is no space; `path` is as it was before.
    """
    if path is not None:
        with replacing(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
    elif sys.stdout.isatty():
        yield _Shown()
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")
        yield sys.stdout
        sys.stdout.flush()


class _Shown:
    """A terminal, which would obey what stands in names."""

    def write(self, text: str) -> None:
        sys.stdout.write("\n".join(visible(line) for line in text.split("\n")))
