"""`list:FILE`: image paths and labels in a text file.

Either `path label` lines as in ImageNet-LT (split from the right, so that paths may hold spaces), or CSV with a header
that names `path`, `label` and optionally `split` (train, val or test). Labels are numbers or text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from nasimb.data.base import DatasetSpec, LoadRequest, Parts, class_list, first_of, make_parts
from nasimb.data.files import load_files
from nasimb.errors import DataError

CSV_SPLITS = {"": "train", "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class ListSpec(DatasetSpec):
    """Images named in a list.

    Attributes:
        path: the list of training images; a CSV file may hold every split.
        root: folder that the paths start from; None is the folder of the list.
        val: a second list, of validation images.
        test: a second list, of test images.
    """

    name: Literal["list"] = "list"
    path: Path
    root: Path | None = None
    val: Path | None = None
    test: Path | None = None

    def read(self, request: LoadRequest) -> Parts:
        """All splits over one store, in the order of the lists."""
        lines = read_list(self.path, "train")
        for split, second in (("val", self.val), ("test", self.test)):
            if second is None:
                continue
            if any(line.split == split for line in lines):
                do = f"Drop the field {split}, or the split from the CSV file."
                raise DataError(f"{split} images must come from one list", got=f"{self.path} and {second}", do=do)
            lines += [line._replace(split=split) for line in read_list(second, split)]
        _check_numbers(lines)
        classes = class_list(line.label for line in lines)
        loaded = load_files([self._locate(line) for line in lines], request)
        number = {name: k for k, name in enumerate(classes)}
        kept = [lines[position] for position in loaded.kept]
        labels = [number[line.label] for line in kept]
        return make_parts(loaded.store, [line.split for line in kept], labels, classes, loaded.skipped)

    def _locate(self, line: Line) -> Path:
        return (self.root or line.where.path.parent) / line.image


class Where(NamedTuple):
    """A line of a file, counted from 1."""

    path: Path
    number: int

    def __str__(self) -> str:
        return f"{self.path} line {self.number}"


class Line(NamedTuple):
    """One image of a list."""

    image: str
    label: str
    split: str
    where: Where


def read_list(path: Path, split: str) -> list[Line]:
    """The images that a list names, `split` being that of lines without one.

    Raises:
        DataError: no such file, not text, no line, a line without a label, an unknown split.
    """
    if not path.is_file():
        raise DataError("the image list must exist", got=str(path), do="Check the path.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("the image list must be UTF-8 text", got=str(path), do="Save it as UTF-8.") from None
    first = next(iter(text.splitlines()), "")
    header = [column.strip().lower() for column in first.split(",")]
    lines = (
        _read_csv(text, header, path, split)
        if "path" in header or path.suffix == ".csv"
        else _read_pairs(text, path, split)
    )
    if not lines:
        raise DataError("the image list must name images", got=f"no line in {path}", do="Write path and label.")
    return lines


def _read_pairs(text: str, path: Path, split: str) -> list[Line]:
    lines, wrong = [], []
    for number, content in enumerate(text.splitlines(), start=1):
        parts = content.strip().rsplit(maxsplit=1)
        where = Where(path, number)
        if len(parts) == 2:
            lines.append(Line(parts[0], parts[1], split, where))
        elif parts:
            wrong.append(f"{where}: {content.strip()!r}")
    if wrong:
        do = "Write the label behind the path, or a CSV file with the header path,label."
        raise DataError("every line of an image list must read `path label`", got=first_of(wrong), do=do)
    return lines


def _read_csv(text: str, header: list[str], path: Path, split: str) -> list[Line]:
    if not {"path", "label"} <= set(header):
        got = f"{path} with the header {','.join(header)}"
        raise DataError("a CSV list must have the columns path and label", got=got, do="Name them in the first line.")
    reader = csv.reader(io.StringIO(text))
    next(reader)
    lines, wrong = [], []
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        values = dict(zip(header, (cell.strip() for cell in row), strict=False))
        where, named = Where(path, reader.line_num), values.get("split", "").lower()
        if len(row) != len(header) or not values.get("path") or not values.get("label") or named not in CSV_SPLITS:
            wrong.append(f"{where}: {','.join(row)!r}")
        else:
            lines.append(Line(values["path"], values["label"], CSV_SPLITS[named] if named else split, where))
    if wrong:
        do = "A split is train, val or test; quote a path that holds a comma."
        raise DataError(
            "every row of a CSV list must have a path, a label and a known split", got=first_of(wrong), do=do
        )
    return lines


def _check_numbers(lines: Iterable[Line]) -> None:
    """Numbers may have gaps, but a negative one means "no label" wherever it is used."""
    wrong = [f"{line.where}: {line.label}" for line in lines if line.label[:1] == "-" and line.label[1:].isdecimal()]
    if wrong:
        raise DataError("labels must be 0 or above", got=first_of(wrong), do="Remove the images that have no label.")
