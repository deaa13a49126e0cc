"""What mistakes cost, from a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nasimb.data.base import first_of
from nasimb.errors import DataError, unknown_name

Floats = NDArray[np.float64]
T = TypeVar("T")
FORMS = "Write class,cost and a row a class, or class,NAME,NAME,... and a row of costs a true class."


def read_costs(file: Path, classes: Sequence[str]) -> Floats:
    """cost_KK of taking an image of class (row) for another (column); the diagonal is 0.

    The file has the header `class,cost`, and a row a class: what it costs to miss an image of it, whatever it is taken
    for. Or the header `class` and the name of every class, and a row a class: its costs by what it is taken for.

    Raises:
        DataError: a class is missing, unknown or twice there; a cost is negative or no number; nothing costs anything.
    """
    header, rows = _read(file)
    if header[1:] == ["cost"] and [*classes] != ["cost"]:
        costs_K = _ordered(file, [(row[0], row) for row in rows], classes)
        cost_KK = np.array([[_cost(file, row[0], row[1])] * len(classes) for row in costs_K])
        np.fill_diagonal(cost_KK, 0.0)
    else:
        columns = _ordered(file, [(name, at) for at, name in enumerate(header[1:], start=1)], classes)
        by_class = _ordered(file, [(row[0], row) for row in rows], classes)
        cost_KK = np.array([[_cost(file, row[0], row[at]) for at in columns] for row in by_class])
        free = [f"{cost_KK[k, k]:g} for {classes[k]!r}" for k in range(len(classes)) if cost_KK[k, k]]
        if free:
            do = "Write 0 where a class meets itself."
            raise DataError("to be right must cost nothing", got=first_of(free), do=do)
    if not cost_KK.any():
        raise DataError("some mistake must cost something", got=f"only 0 in {file}", do=FORMS)
    return cost_KK


def _read(file: Path) -> tuple[list[str], list[list[str]]]:
    if not file.is_file():
        raise DataError("the file of costs must exist", got=file, do="Check the path.")
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if any(cell.strip() for cell in row)]
    except UnicodeDecodeError:
        raise DataError("the file of costs must be UTF-8 text", got=file, do="Save it as UTF-8.") from None
    if not rows or rows[0][0].lower() != "class" or len(rows[0]) < 2:
        got = f"{file}, which begins with {','.join(rows[0])!r}" if rows else f"{file}, which is empty"
        raise DataError("a file of costs must have a header that begins with class", got=got, do=FORMS)
    uneven = [",".join(row) for row in rows if len(row) != len(rows[0])]
    if uneven:
        got = f"{uneven[0]!r} in {file}"
        raise DataError(f"every row must have {len(rows[0])} cells, as the header", got=got, do=FORMS)
    return rows[0], rows[1:]


def _ordered(file: Path, named: Sequence[tuple[str, T]], classes: Sequence[str]) -> list[T]:
    """The values in the order of the classes."""
    found: dict[str, T] = {}
    for name, value in named:
        if name not in classes:
            raise unknown_name(f"a class in {file}", name, classes)
        if name in found:
            raise DataError("every class must have one cost", got=f"{name!r} twice in {file}", do="Remove one.")
        found[name] = value
    missing = [repr(name) for name in classes if name not in found]
    if missing:
        raise DataError("every class of the model must have a cost", got=f"none for {first_of(missing)}", do=FORMS)
    return [found[name] for name in classes]


def _cost(file: Path, name: str, text: str) -> float:
    try:
        cost = float(text)
    except ValueError:
        cost = math.nan
    if not (math.isfinite(cost) and cost >= 0):
        raise DataError("a cost must be a number, 0 or above", got=f"{text!r} for {name!r} in {file}", do="Mend it.")
    return cost
