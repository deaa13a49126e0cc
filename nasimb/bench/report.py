"""Running benchmarks, and what is shown and kept of them: a table, JSON, one CSV file a benchmark."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from nasimb.bench.base import Conditions, Figure, Measure, Skipped
from nasimb.bench.provenance import VERSIONS
from nasimb.errors import InputError, Interrupted, ResumeError

COLUMNS = (
    "benchmark", "figure", "value", "low", "high", "unit", "target", "met", "repetitions", "against", "reason",
    "data", "supernet", "device", "threads", "seed", "quick", "clock", "commit",
)  # fmt: skip


def run_measures(measures: Mapping[str, Measure], conditions: Conditions) -> Iterator[Figure]:
    """Figures one by one; what fails or is left out becomes a figure without value that says why.

    Raises:
        InputError: what was asked is wrong. Interrupted: a signal has come.
    """
    for name, measure in measures.items():
        try:
            for figure in measure(conditions):
                # Small sizes are all overhead: they are not to be held against what is asked of real ones.
                yield replace(figure, at_most=None, at_least=None) if conditions.quick else figure
        except (InputError, Interrupted):
            raise
        except Skipped as reason:
            yield Figure(name, None, "", reason=str(reason))
        except Exception as error:  # whatever one measurement breaks on, the others are still worth having
            yield Figure(name, None, "", reason=f"{type(error).__name__}: {' '.join(str(error).split())}", failed=True)


def table(figures: Sequence[Figure]) -> pd.DataFrame:
    """The figures as a reader wants them, the ones with a target and without side by side."""
    return pd.DataFrame(
        [
            {
                "figure": figure.figure,
                "value": "" if figure.value is None else f"{_short(figure.value)}",
                "quartiles": "" if figure.low is None or figure.high is None
                else f"{_short(figure.low)} .. {_short(figure.high)}",
                "unit": figure.unit,
                "target": figure.target,
                "met": {True: "yes", False: "NO", None: ""}[figure.met],
                "n": figure.repetitions,
                "what": figure.against or f"{'failed' if figure.failed else 'left out'}: {figure.reason}",
            }
            for figure in figures
        ]
    )  # fmt: skip


def write_json(file: Path, figures: Mapping[str, Sequence[Figure]], shared: Mapping[str, Any]) -> None:
    """One list of records over all benchmarks; the file is replaced as a whole."""
    records = [{"benchmark": name, **figure.to_record(shared)} for name, some in figures.items() for figure in some]
    _replace(file, json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(
    folder: Path, name: str, figures: Sequence[Figure], shared: Mapping[str, Any], measured: Collection[str] = ()
) -> None:
    """folder/NAME.csv: a row a figure, conditions and versions in columns; what is behind it as JSON in the last.

    Rows of other figures that are there already stay, with the conditions that they were measured under.

    Args:
        measured: names of measurements; a row that says why such a one gave no figure does not stay.

    Raises:
        ResumeError: a file of that name holds no figures.
    """
    file = folder / f"{name}.csv"
    columns = [*COLUMNS, *(f"{library}_version" for library in VERSIONS), "detail"]
    rows = {row["figure"]: row for row in _kept(file) if row["value"] or row["figure"] not in measured}
    for figure in figures:
        record = {"benchmark": name, **figure.to_record(shared)}
        cells = {column: record[column] for column in COLUMNS}
        cells |= {f"{library}_version": shared["versions"][library] for library in VERSIONS}
        cells["detail"] = json.dumps(record["detail"], ensure_ascii=False, allow_nan=False)
        rows[figure.figure] = {column: "" if cell is None else cell for column, cell in cells.items()}
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows.values())
    _replace(file, out.getvalue())


def _kept(file: Path) -> list[dict[str, Any]]:
    """The rows of an earlier command."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as text:
        reader = csv.DictReader(text)
        columns = reader.fieldnames or ()
        if not {"figure", "value"} <= set(columns):
            do = "Use another --out, or delete the file."
            raise ResumeError(f"{file} must hold figures", got=",".join(columns)[:80], do=do)
        return list(reader)


def _replace(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
