"""`nasimb data inspect`, `nasimb status` and `nasimb report`: what only looks."""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasimb.cli.options import DATA_FORMS, Format
from nasimb.cli.pipes import NOBODY_READS, tell_nobody
from nasimb.errors import InputError
from nasimb.visible import json_text, visible

if TYPE_CHECKING:
    from nasimb.care.look import CloserLook
    from nasimb.data.base import DatasetSpec
    from nasimb.report.live import Look


def inspect(
    data: Annotated[str, typer.Argument(help=f"{DATA_FORMS}; a bare folder means folder:DIR.")],
    download: Annotated[bool, typer.Option("--download", help="Allow CIFAR to be downloaded.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Look closer, and write everything as one page to this file.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help=f"Look closer, and say how far these source images are: {DATA_FORMS}.")
    ] = None,
    supernet: Annotated[
        Path | None,
        typer.Option(help="Look closer, through the features of this trained super-network instead of simple ones."),
    ] = None,
) -> None:
    """Count the classes of a data set, and list every problem that would stop a search.

    Shows the images per class and split, the imbalance factor and the many-, medium- and few-shot groups. Exit code 2
    if there is a problem. A closer look (--html, --source or --supernet) also finds near-duplicates and suspected label
    errors, and how far the data are from the source; it takes longer.
    """
    from nasimb.data import parse_dataset
    from nasimb.data.base import LoadRequest
    from nasimb.data.inspect import inspect_dataset

    named = f"folder:{data}" if Path(data).is_dir() else data
    spec = parse_dataset(named)
    closer: CloserLook | None = None
    if html is None and source is None and supernet is None:
        found = inspect_dataset(spec, LoadRequest(size=32, download=download))
    else:
        closer = _closer(spec, html, source, supernet, download, named)
        found = closer.inspection
    if as_json:
        values = {
            "classes": json.loads(found.table.to_json(orient="records")),
            "imbalance_factor": found.imbalance_factor, "groups": found.groups, "channels": found.channels,
            "fingerprints": found.fingerprints, "skipped": list(found.skipped), "problems": list(found.problems),
            "remarks": list(found.remarks), **({} if closer is None else closer.values()),
        }  # fmt: skip
        print(json_text(values, indent=2))
    else:
        from nasimb.report.show import print_inspection

        if closer is not None:
            found = replace(found, remarks=(*found.remarks, *closer.lines()))
        print_inspection(found, title=named)
    raise typer.Exit(2 if found.problems else 0)


def _closer(
    spec: DatasetSpec, html: Path | None, source: str | None, supernet: Path | None, download: bool, named: str
) -> CloserLook:
    from nasimb.care.look import look_closer
    from nasimb.care.page import write_page
    from nasimb.data import parse_dataset
    from nasimb.durable import check_writable

    if html is not None:
        check_writable(html)
    origin = None if source is None else parse_dataset(source)
    found = look_closer(spec, source=origin, supernet=supernet, download=download)
    if html is not None:
        write_page(found, html, title=named)
    return found


def status(
    run: Annotated[Path, typer.Argument(help="A run folder, running, interrupted or finished.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again until the run is finished; Ctrl-C ends it before.")
    ] = False,
    every: Annotated[
        float | None, typer.Option(help="Seconds between two looks; more where a look takes long. Default: 2.")
    ] = None,
) -> None:
    """Say where a run stands: spend by phase, trials, and the best so far.

    With --watch a live picture of it; where the output is no terminal, a block of lines whenever there is news. The
    folder is only read, so that any number may watch, from any host that sees it.

    A browser shows the trials, too: `optuna-dashboard RUN/study.journal` (after `pip install optuna-dashboard`).
    """
    from nasimb.report import Run
    from nasimb.report.status import status_lines

    if watch:
        _watch(run, 2.0 if every is None else every)
        return
    if every is not None:
        raise InputError("--every must come with --watch", got=f"--every {every:g} alone", do="Add --watch.")
    for line in status_lines(Run.read(run)):
        print(visible(line))


def _watch(folder: Path, every_seconds: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from nasimb.display import watching
    from nasimb.report.live import live_view
    from nasimb.report.watch import blocks, checked_seconds, looker, watch

    seconds = checked_seconds(every_seconds)
    look = looker(folder, now=time.time, sleep=time.sleep)
    console = Console()
    drawn = sys.stdout.isatty() and not console.is_dumb_terminal
    screen = Live(console=console, auto_refresh=False) if drawn else None

    def draw(found: Look) -> None:
        assert screen is not None
        screen.update(live_view(found, width=console.width, height=console.height), refresh=True)

    show = blocks(partial(print, flush=True)) if screen is None else draw
    try:
        with watching(speaking=False) as (_, stop), nullcontext() if screen is None else screen:
            signal_number = watch(
                look, show, every_seconds=seconds, clock=time.monotonic, sleep=time.sleep, stop=stop
            )  # fmt: skip
    except KeyboardInterrupt:
        signal_number = signal.SIGINT
    except BrokenPipeError:
        tell_nobody()
        raise typer.Exit(NOBODY_READS) from None
    # Ctrl-C is how one stops watching; nothing is lost by it, and the run that is watched does not notice.
    if signal_number not in (0, signal.SIGINT):
        raise typer.Exit(128 + signal_number)


def report(
    runs: Annotated[list[Path], typer.Argument(help="One or more finished run folders.")],
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="terminal (default), markdown, csv (a row a model), json (each result.json), svg (a picture).",
        ),
    ] = None,
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
        print_report(runs, form or Format.terminal)
        return
    if form is not None:
        do = "Ask for the two in two commands."
        raise InputError("--format is of what is printed; with --html and --tables nothing is", got=form.value, do=do)
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
