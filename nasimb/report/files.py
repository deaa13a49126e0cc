"""The tables of a report as files: CSV, Parquet and Markdown, one of each a table, and one JSON of all."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nasimb.durable import replace_whole
from nasimb.errors import InputError
from nasimb.report.findings import Findings, number_tables
from nasimb.report.show import markdown_table
from nasimb.visible import visible

SCHEMA = 1


def check_folder(folder: Path) -> None:
    """Raise InputError where tables cannot be written into a folder: it is a file, or none is above it."""
    if folder.exists() and not folder.is_dir():
        raise InputError("tables must go to a folder", got=f"{folder}, which is a file", do="Name another.")
    if not folder.parent.is_dir():
        raise InputError("a folder to write must have one above it", got=folder, do="Make that, or choose another.")


def write_tables(found: Sequence[Findings], folder: Path) -> list[Path]:
    """NAME.csv, NAME.parquet and NAME.md for every table, and report.json; each file whole or not at all.

    Tables that an earlier call has left there, and this one has nothing for, are removed.

    Returns:
        What was written.

    Raises:
        InputError: as `check_folder`.
    """
    check_folder(folder)
    folder.mkdir(exist_ok=True)
    tables, written = number_tables(found), {}
    for name, table in tables.items():
        parquet = io.BytesIO()
        table.to_parquet(parquet, index=False)
        written[folder / f"{name}.parquet"] = parquet.getvalue()
        written[folder / f"{name}.csv"] = table.map(_shown).to_csv(index=False).encode()
        written[folder / f"{name}.md"] = markdown_table(table.map(_shown), title=name).encode()
    written[folder / "report.json"] = (json.dumps(as_json(found, tables), indent=1, ensure_ascii=True) + "\n").encode()
    for stale in _tables_in(folder) - set(written):
        stale.unlink(missing_ok=True)
    for file, data in written.items():  # report.json is the last: until then, the old one names what may be stale
        replace_whole(file, data)
    return list(written)


def _tables_in(folder: Path) -> set[Path]:
    """The files of tables that an earlier report.json names: of other runs, they would be taken for some of these."""
    try:
        names = list(json.loads((folder / "report.json").read_bytes())["tables"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()
    return {
        folder / f"{name}.{ending}" for name in names if Path(name).name == name for ending in ("parquet", "csv", "md")
    }


def as_json(found: Sequence[Findings], tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """{"schema", "runs": [result.json of each], "tables": {name: [row]}, "missing"}; NaN is null."""
    rows = {name: json.loads(table.to_json(orient="records", double_precision=15)) for name, table in tables.items()}
    return {
        "schema": SCHEMA,
        "runs": [{"name": one.name, **one.run.finished_result()} for one in found],
        "tables": rows,
        "missing": {one.name: one.missing for one in found if one.missing},
    }  # fmt: skip


def _shown(cell: object) -> object:
    return visible(cell) if isinstance(cell, str) else cell
