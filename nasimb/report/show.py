"""Tables on a terminal and in Markdown. Cells are data: nothing in them is read as markup."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from nasimb.report.run import Run
from nasimb.report.tables import data_notes


def terminal_table(frame: pd.DataFrame, *, title: str) -> Table:
    """The frame as a rich table; numbers to the right, missing cells empty."""
    table = Table(title=Text(title, style="bold"), box=SIMPLE_HEAD, title_justify="left", header_style="bold")
    for column in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[column])
        table.add_column(Text(str(column)), justify="right" if numeric else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(Text("" if pd.isna(cell) else str(cell)) for cell in row))
    return table


def markdown_table(frame: pd.DataFrame, *, title: str) -> str:
    """The frame as a Markdown table under a heading."""
    if frame.empty:
        return f"### {markdown_text(title)}\n\nNothing to show.\n"
    text = frame.map(markdown_text).rename(columns=markdown_text)
    return f"### {markdown_text(title)}\n\n{text.to_markdown(index=False, disable_numparse=True)}\n"


def markdown_text(cell: object) -> str:
    """A cell or a line as text that Markdown shows as it is: no column, line or tag begins inside."""
    text = "" if pd.isna(cell) else str(cell)  # type: ignore[call-overload]
    for mark in ("\\", "|", "<", "*", "_", "`", "["):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.splitlines())


def closing_lines(run: Run, folder: Path) -> list[str]:
    """What the reader of the tables must know besides: trials, data, provenance, where the model is."""
    result = run.finished_result()
    winner, trials, spend, provenance = result["winner"], result["trials"], result["spend"], result["provenance"]
    limit = "" if spend["limit_seconds"] is None else f" of {spend['limit_seconds']:.0f} s"
    lines = [
        f"winner: {winner['name']}, calibration {winner['calibration']}, head {winner['head']}",
        f"trials: {trials['finished']} scored, {trials['cached']} repeats at no cost, {trials['failed']} failed; "
        f"spent {spend['spent_seconds']:.1f} s{limit} ({spend['limit']})",
        f"seed {provenance['seed']}, {provenance['device']}, torch {provenance['versions'].get('torch')}, "
        + ", ".join(f"{name} {digest}" for name, digest in provenance["data"].items()),
    ]
    lines += [f"note: {note}" for note in data_notes(run)]
    return [*lines, f'model: nasimb.load("{folder / "best"}").predict(images)']
