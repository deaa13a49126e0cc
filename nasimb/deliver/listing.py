"""Which image files somebody means: files, folders, patterns, and lists of files."""

from __future__ import annotations

import csv
import glob
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nasimb.data.base import first_of
from nasimb.data.decode import SUFFIXES
from nasimb.data.folder import files_below
from nasimb.errors import DataError

LIST = "list:"
LIST_SUFFIXES = frozenset({".txt", ".csv", ".lst"})


@dataclass(frozen=True, slots=True)
class Listing:
    """Files in the order in which they were named, each once.

    Attributes:
        notes: sentences on what was left out, and on what was named twice.
    """

    paths: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def listed(words: Sequence[str]) -> Listing:
    """The files that `words` name.

    Args:
        words: of each, the first that fits: `list:FILE`, or a file called .txt, .csv or .lst: one path a line, or CSV
            with a column `path`, both starting from the list's own folder; a folder: every file below it with the
            suffix of an image; a file; a pattern (`*`, `?`, `[...]`, `**` for any folders).

    Raises:
        DataError: a word names nothing.
    """
    times: Counter[Path] = Counter()
    notes: list[str] = []
    for word in words:
        path = Path(word)
        if word.startswith(LIST) or (path.suffix.lower() in LIST_SUFFIXES and path.is_file()):
            named = _of_list(Path(word.removeprefix(LIST)))
        elif path.is_dir():
            named, note = _of_folder(path)
            notes += note
        elif path.exists():
            named = [path]
        else:
            named = _of_pattern(word)
        times.update(named)
    if again := [str(path) for path, count in times.items() if count > 1]:
        notes.append(f"{'1 file is' if len(again) == 1 else f'{len(again):,} files are'} named more than once and "
                     f"{'counts' if len(again) == 1 else 'count'} once: {first_of(again)}.")  # fmt: skip
    return Listing(tuple(times), tuple(notes))


def _of_folder(folder: Path) -> tuple[list[Path], list[str]]:
    """Its images, and a note on its other files."""
    files = list(files_below(folder))
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not images:
        do = "Name another folder; a file without the suffix of an image must be named itself."
        raise DataError("a folder must hold images", got=f"none in {folder}", do=do)
    others = [str(file) for file in files if file.suffix.lower() not in SUFFIXES]
    count = f"{len(others):,} files are" if len(others) > 1 else "1 file is"
    return images, [f"{count} no image by name and left out: {first_of(others)}."] if others else []


def _of_pattern(pattern: str) -> list[Path]:
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    files = [path for path in found if path.is_file()]
    if not files:
        if glob.has_magic(pattern):
            raise DataError("a pattern must match files", got=repr(pattern), do="Check it; ** stands for any folders.")
        raise DataError("every file or folder named must exist", got=pattern, do="Check the path.")
    return files


def _of_list(file: Path) -> list[Path]:
    if not file.is_file():
        raise DataError("the list of images must exist", got=file, do="Check the path.")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("a list of images must be UTF-8 text", got=file, do="Save it as UTF-8.") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if text else []
    names = _of_table(text) or [line.strip() for line in lines]
    paths = [file.parent / name for name in names if name]
    if not any(path.exists() for path in paths):
        got = f"{file}, whose first line is {lines[0]!r}" if lines else f"{file}, which is empty"
        do = "Write one path a line, or a CSV file with the header path, seen from the folder of the list."
        raise DataError("a list must name images that exist", got=got, do=do)
    return paths


def _of_table(text: str) -> list[str]:
    """The cells below `path`; none where the text is no table with such a column."""
    table = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [column.strip().lower() for column in next(table, [])]
        at = header.index("path")
        return [row[at].strip() for row in table if len(row) > at]
    except (ValueError, csv.Error):
        return []
