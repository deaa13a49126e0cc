"""`nasimb data inspect`, `nasimb status` and `nasimb report`: what only looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nasimb.cli.options import DATA_FORMS, Format
from nasimb.visible import visible


def inspect(
    data: Annotated[str, typer.Argument(help=f"{DATA_FORMS}; a bare folder means folder:DIR.")],
    download: Annotated[bool, typer.Option("--download", help="Allow CIFAR to be downloaded.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Count the classes of a data set, and list every problem that would stop a search.

    Shows the images per class and split, the imbalance factor and the many-, medium- and few-shot groups. Exit code 2
    if there is a problem.
    """
    from nasimb.data import parse_dataset
    from nasimb.data.base import LoadRequest
    from nasimb.data.inspect import inspect_dataset

    named = f"folder:{data}" if Path(data).is_dir() else data
    found = inspect_dataset(parse_dataset(named), LoadRequest(size=32, download=download))
    if as_json:
        values = {
            "classes": json.loads(found.table.to_json(orient="records")),
            "imbalance_factor": found.imbalance_factor, "groups": found.groups, "channels": found.channels,
            "fingerprints": found.fingerprints, "skipped": list(found.skipped), "problems": list(found.problems),
            "remarks": list(found.remarks),
        }  # fmt: skip
        print(json.dumps(values, indent=2, ensure_ascii=False))
    else:
        from nasimb.report.show import print_inspection

        print_inspection(found, title=named)
    raise typer.Exit(2 if found.problems else 0)


def status(run: Annotated[Path, typer.Argument(help="A run folder, running, interrupted or finished.")]) -> None:
    """Say where a run stands: spend by phase, trials, and the best so far."""
    from nasimb.report import Run
    from nasimb.report.status import status_lines

    for line in status_lines(Run.read(run)):
        print(line)


def report(
    runs: Annotated[list[Path], typer.Argument(help="One or more finished run folders.")],
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="terminal, markdown, csv (one row a model, plain numbers), json (each result.json), svg (a picture).",
        ),
    ] = Format.terminal,
    page: Annotated[
        Path | None,
        typer.Option("--html", help="Write one HTML page here that opens offline, on any screen and paper."),
    ] = None,
    tables: Annotated[
        Path | None,
        typer.Option(help="Write the numbers of that page into this folder: CSV, Parquet, Markdown, and report.json."),
    ] = None,
) -> None:
    """Tables of a finished run, or of several side by side; or a page, and files for programs.

    One run: the winner against every baseline with 95 % intervals (n.s.: not significant), the Pareto set of cost and
    accuracy, the spend by phase, and what was done to the data. Several: one line each.

    With --html or --tables, stdout names what was written instead.
    """
    from nasimb.report.show import print_report

    if page is None and tables is None:
        print_report(runs, form)
        return
    from nasimb.durable import check_writable
    from nasimb.report.files import check_folder, write_tables
    from nasimb.report.findings import findings
    from nasimb.report.page import write_page

    if page is not None:
        check_writable(page)
    if tables is not None:
        check_folder(tables)
    found = findings(runs)
    if page is not None:
        write_page(found, page)
        print(visible(f"page: {page}"))
    if tables is not None:
        print(visible(f"tables: {len(write_tables(found, tables))} files in {tables}"))
