"""Where a table goes: into a file that is whole or not there, or to whoever reads standard output."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nasimb.durable import replacing
from nasimb.visible import visible

ROW_END = "\r\n"
"""What `csv` knows to be the end of a row it quotes inside a cell; readers take each of the two for one."""


class Lines(Protocol):
    """What `csv.writer` writes to."""

    def write(self, text: str, /) -> object:
        """Take a piece of text."""


def rows_into(file: Lines) -> Any:
    """A `csv.writer` that ends rows with a line feed, and quotes every cell that any reader would end a row in."""
    return csv.writer(_LineFeeds(file), lineterminator=ROW_END)


@contextmanager
def table_file(path: Path | None) -> Iterator[Lines]:
    """A file to write, in UTF-8 with names of files as the disk has them; None is standard output, in UTF-8 too.

    Raises:
        DiskFullError: there is no space; `path` is as it was before.
    """
    if path is not None:
        with replacing(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
    elif sys.stdout.isatty():
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # it may have another encoding
        yield _Shown()
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
        yield sys.stdout
        sys.stdout.flush()


@dataclass(frozen=True)
class _LineFeeds:
    """Takes rows, one at a time."""

    file: Lines

    def write(self, row: str) -> object:
        return self.file.write(row.removesuffix(ROW_END) + "\n")


class _Shown:
    """A terminal, which would obey what stands in names."""

    def write(self, text: str) -> None:
        sys.stdout.write("\n".join(visible(line) for line in text.split("\n")))
