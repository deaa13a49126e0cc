"""`nasimb pareto`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Cost(StrEnum):
    """What a network costs."""

    macs = "macs"
    params = "params"


class Form(StrEnum):
    """How the answer is printed."""

    terminal = "terminal"
    markdown = "markdown"
    csv = "csv"
    json = "json"


def pareto(
    run: Annotated[Path, typer.Argument(help="A run folder, running, interrupted or finished.")],
    max_macs: Annotated[
        str | None, typer.Option(help="Most multiply-accumulates an image, e.g. 20M. Default: the run's own limit.")
    ] = None,
    max_params: Annotated[
        str | None, typer.Option(help="Most parameters, e.g. 300K. Default: the run's own limit.")
    ] = None,
    objective_cost: Annotated[
        Cost | None, typer.Option(help="The cost beside the score: macs or params. Default: the run's, else macs.")
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="terminal, markdown, csv (plain numbers), json.")] = (
        Form.terminal
    ),
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Ask a run what it knows about cheaper networks: from its finished trials, at no cost.

    Prints the Pareto set of score and cost within the limits, and the best trial. Scores are held out; the test split
    stays closed. To search on from there with the same super-network: nasimb search --supernet RUN/supernet.
    """
    from nasimb.config import parse_amount
    from nasimb.report import Run
    from nasimb.report.within import print_pareto, within_limits
    from nasimb.search.limits import Limits

    macs, params = (None if text is None else parse_amount(text) for text in (max_macs, max_params))
    cost = None if objective_cost is None else objective_cost.value
    found = within_limits(Run.read(run), run, Limits(macs, params), cost)
    print_pareto(found, run, "json" if as_json else form.value)
