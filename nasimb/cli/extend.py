"""`nasimb extend`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nasimb.cli.launch import refuse_torchrun
from nasimb.cli.options import Format
from nasimb.cli.search_options import Storage, Workers
from nasimb.cli.starting import importing
from nasimb.display import watching


def extend(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="A run folder, finished or interrupted.")],
    budget: Annotated[
        str | None,
        typer.Option(
            help="What to add, in the unit of the run's own budget: +4gpu-h, +30min, +50trials. None: go on with an "
            "extension that was interrupted.",
        ),
    ] = None,
    workers: Workers = 0,
    storage: Storage = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json instead of tables.")] = False,
) -> None:
    """Go on with a run on more budget: nasimb extend RUN --budget +30min.

    The same study searches on with the same super-network, and no candidate is scored twice. Then heads are compared
    and the winner is tested again, which reads the test split once more; the report says so. The earlier result is kept
    as result-1.json, and best/ holds the earlier winner until there is a new one.
    The same command again resumes an interrupted extension, and adds nothing.
    To search with the super-network of a run in another way (other limits, another objective), start a new run from
    it: nasimb search --supernet RUN/supernet.
    """
    refuse_torchrun()
    with importing():
        from nasimb.extend import extend_run
        from nasimb.extension import mark_seen
        from nasimb.phases.sharing import Sharing
        from nasimb.report.show import print_report
        from nasimb.rundir import RunDir

    with watching() as (watcher, stop):
        result = extend_run(
            run, budget, begun=context.obj, watcher=watcher, stop=stop, sharing=Sharing(workers, storage)
        )
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        print_report([run], Format.terminal)
    mark_seen(RunDir(run))
