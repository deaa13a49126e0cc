"""Rows of a long measurement, each written when it is done, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nasimb.errors import ResumeError

Cell = str | int | float | None


class Rows:
    """A table on disk that only grows.

    Args:
        file: a CSV file, continued if there; None keeps the rows in memory.
        key: columns that identify a row.
        identity: what the rows depend on besides their key; kept in a column of every row, so that rows measured under
            other conditions are not mistaken for these.

    Raises:
        ResumeError: the file holds rows of another identity, or is no such table.
    """

    def __init__(self, file: Path | None, key: Sequence[str], identity: str) -> None:
        self._file, self._key, self._identity = file, tuple(key), identity
        self._rows: list[dict[str, str]] = []
        self._columns: list[str] = []
        if file is not None and file.exists():
            self._read(file)

    def __len__(self) -> int:
        return len(self._rows)

    def has(self, **key: Cell) -> bool:
        """Whether the row with this key is there."""
        wanted = {name: _text(value) for name, value in key.items()}
        return any(all(row[name] == wanted[name] for name in self._key) for row in self._rows)

    def append(self, row: Mapping[str, Cell]) -> None:
        """Add one row, durably; every row has the same columns."""
        cells = {"identity": self._identity, **{name: _text(value) for name, value in row.items()}}
        lines = []
        if not self._columns:
            self._columns = list(cells)
            lines.append(_line(self._columns))
        if list(cells) != self._columns:
            raise ResumeError(
                f"the rows of {self._file} must have one set of columns",
                got=f"{list(cells)} after {self._columns}",
                do="Use another --out.",
            )
        self._rows.append(cells)
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8", newline="") as file:
            file.write("".join([*lines, _line(list(cells.values()))]))
            file.flush()
            os.fsync(file.fileno())

    def numbers(self, column: str, **where: Cell) -> list[float]:
        """A column of the rows with these values, in the order of the rows; empty cells are NaN."""
        return [float(text) if text else float("nan") for text in self.texts(column, **where)]

    def texts(self, column: str, **where: Cell) -> list[str]:
        """As `numbers`, as they stand."""
        wanted = {name: _text(value) for name, value in where.items()}
        return [row[column] for row in self._rows if all(row[name] == text for name, text in wanted.items())]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns; none before the first row."""
        return tuple(self._columns)

    def _read(self, file: Path) -> None:
        data = file.read_bytes()
        whole = data.rfind(b"\n") + 1  # a kill tears the last line at most
        if whole < len(data):
            os.truncate(file, whole)
        rows = list(csv.reader(io.StringIO(data[:whole].decode("utf-8", errors="replace"))))
        if not rows:
            return
        self._columns = rows[0]
        if not {"identity", *self._key} <= set(self._columns) or any(len(row) != len(rows[0]) for row in rows):
            do = "Use another --out, or delete the file."
            raise ResumeError(f"{file} must hold rows of this benchmark", got=",".join(rows[0])[:80], do=do)
        self._rows = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
        other = {row["identity"] for row in self._rows} - {self._identity}
        if other:
            now, then = _differing(self._identity, other.pop())
            raise ResumeError(
                f"{file} must be continued under the conditions it was begun with",
                got=f"{now} after {then}",
                do="Use the same options, or another --out.",
            )


def _differing(now: str, then: str) -> tuple[str, str]:
    """Of two identities, "name=value; name=value", only what differs."""
    here, there = now.split("; "), then.split("; ")
    return "; ".join(part for part in here if part not in there), "; ".join(part for part in there if part not in here)


def _text(value: Cell) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([" ".join(cell.splitlines()) for cell in cells])
    return out.getvalue()
