"""Tables on a terminal and in Markdown. Cells are data: nothing in them is read as markup."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nasimb.data.inspect import Inspection
from nasimb.report.run import Run
from nasimb.report.status import LEAST_DOWN_SECONDS
from nasimb.report.tables import calibrations, comparison, data_notes, models, numbers, pareto, spend
from nasimb.search.trial import failure_counts
from nasimb.visible import visible

PICTURE_COLUMNS = 176


def terminal_table(frame: pd.DataFrame, *, title: str) -> Table:
    """The frame as a rich table; numbers to the right, missing cells empty."""
    table = Table(title=Text(visible(title), style="bold"), box=SIMPLE_HEAD, title_justify="left", header_style="bold")
    for column in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[column])
        table.add_column(Text(visible(str(column))), justify="right" if numeric else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(Text("" if pd.isna(cell) else visible(str(cell))) for cell in row))
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
    winner, trials, spent, provenance = result["winner"], result["trials"], result["spend"], result["provenance"]
    used = spent.get("used_seconds", spent["spent_seconds"])
    limit = "" if spent["limit_seconds"] is None else f", {used / spent['limit_seconds']:.1%}"
    failures = failure_counts(run.trials)
    lines = [
        f"winner: {winner['name']}, calibration {winner['calibration']}, head {winner['head']}",
        f"trials: {trials['finished']:,} scored on all images, {trials['screened_out']:,} screened out, "
        f"{trials['cached']:,} repeats at no cost, {trials['infeasible']:,} over a limit, {trials['failed']:,} failed"
        f"{f' ({failures})' if failures else ''}; spent {spent['spent_seconds']:.1f} s{limit} of {spent['limit']}",
        f"seed {provenance['seed']}, {provenance['device']}, torch {provenance['versions'].get('torch')}, "
        + ", ".join(f"{name} {digest}" for name, digest in provenance["data"].items()),
    ]
    screening = result.get("screening")
    if screening is not None:
        lines.append(
            f"screening: {screening['screened']:,} candidates on {screening['images']:,} of "
            f"{screening['of_images']:,} images, {screening['promoted']:,} promoted to all of them; "
            f"that saved about {screening['saved_seconds']:.1f} s"
        )
    if run.down_seconds >= LEAST_DOWN_SECONDS:
        lines.append(f"down: {run.down_seconds:,.0f} s between its processes, not charged")
    lines += [f"note: {note}" for note in data_notes(run)]
    return [*lines, f'model: nasimb.load("{folder / "best"}").predict(images)']


def stdout() -> Console:
    """Tables on stdout: as wide as they need to be where it is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=200)


def print_report(folders: Sequence[Path], form: str) -> None:
    """One run in all its tables, or several runs side by side, on stdout.

    Args:
        form: "terminal", "markdown", "csv", "json" or "svg" (a picture of the terminal).

    Raises:
        InputError: a folder is no run, or the run is not finished.
    """
    runs = [Run.read(folder) for folder in folders]
    results = [run.finished_result() for run in runs]
    if form == "json":
        print(json.dumps(results, indent=2, ensure_ascii=False))
    elif form == "csv":
        print(numbers(runs).to_csv(index=False), end="")
    elif form == "svg":
        print(picture(runs))
    else:
        for title, table in _tables(runs).items():
            if form == "markdown":
                print(markdown_table(table, title=title))
            else:
                stdout().print(terminal_table(table, title=title))
        for line in closing_lines(runs[0], folders[0]) if len(runs) == 1 else ():
            print(f"- {markdown_text(line)}" if form == "markdown" else line)


def picture(runs: Sequence[Run]) -> str:
    """The tables as a terminal shows them, as SVG that loads nothing from elsewhere."""
    console = Console(record=True, file=io.StringIO(), width=PICTURE_COLUMNS)
    for title, table in _tables(runs).items():
        console.print(terminal_table(table, title=title))
    svg = console.export_svg(title=f"nasimb report {' '.join(run.name for run in runs)}")
    # rich names a font on the network; the viewer's own monospaced one does as well.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def print_inspection(found: Inspection, *, title: str) -> None:
    """What `nasimb data inspect` found, on stdout."""
    if len(found.table):
        stdout().print(terminal_table(found.table, title=title))
    if found.imbalance_factor is not None:
        groups = ", ".join(f"{count} {name}-shot" for name, count in found.groups.items())
        print(f"imbalance factor {found.imbalance_factor:g}; classes: {groups}")
    for remark in found.remarks:
        print(f"note: {remark}")
    for problem in found.problems:
        print(f"problem: {problem}")
    if not found.problems:
        print("No problem found.")


def _tables(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    if len(runs) > 1:
        return {"Runs": comparison(runs)}
    (run,) = runs
    ablation = calibrations(run)
    return {
        "Winner and baselines (test split)": models(run),
        **({} if ablation.empty else {"Calibration of the winner's subnet (held out)": ablation}),
        "Pareto set (held out)": pareto(run),
        "Spend": spend(run),
    }
