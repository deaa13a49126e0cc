"""`nasimb bench`: parse, measure, print."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasimb.display import watching

if TYPE_CHECKING:
    from nasimb.bench.base import Figure
    from nasimb.config import RunConfig

WHAT, HOW, OUT = "What is measured", "How it is measured", "What becomes of it"
DEFAULT_NAMES = ("candidate", "head", "train", "storage")
SPACE = "cifar-resnet"


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="candidate, head, train, storage (the default), workers, mixing, predict; and budgets, screening, "
            "ranking, calibration, norms, adaptation: these take long."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="One measurement of these, by name: --only tree_over_single. Repeatable.",
                     rich_help_panel=WHAT),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Imbalanced images, as for search. Default: random pixels, or digits where content matters.",
                     rich_help_panel=WHAT),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Balanced images, as for search.", rich_help_panel=WHAT)
    ] = None,
    supernet: Annotated[
        Path | None,
        typer.Option(help="Folder of a trained super-network. Default: fresh random weights, with which times are "
                     "right and scores mean nothing.", rich_help_panel=WHAT),
    ] = None,
    space: Annotated[str | None, typer.Option(help="As for search.", rich_help_panel=WHAT)] = None,
    imbalance_factor: Annotated[
        float | None, typer.Option(help="Make the target long-tailed: largest class / smallest.", rich_help_panel=WHAT)
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Use at most so many target images.", rich_help_panel=WHAT)
    ] = None,
    repetitions: Annotated[
        int, typer.Option(min=1, help="Timed turns, one work after the other.", rich_help_panel=HOW)
    ] = 5,
    seeds: Annotated[
        int, typer.Option(min=1, help="Repetitions of what screening, norms and adaptation compare, one a seed; fewer "
                          "say less.",
                          rich_help_panel=HOW)
    ] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.", rich_help_panel=HOW)] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of all libraries.", rich_help_panel=HOW)
    ] = None,
    cpu_time: Annotated[
        bool,
        typer.Option("--cpu-time", help="Count processor time, not the clock: for a busy machine, with --threads 1.",
                     rich_help_panel=HOW),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything random.", rich_help_panel=HOW)] = 0,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Small sizes, for a first look: such figures say little.", rich_help_panel=HOW),
    ] = False,
    large: Annotated[
        bool, typer.Option("--large", help="Also what takes minutes, memory and disk (head).", rich_help_panel=HOW)
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Allow CIFAR to be downloaded.", rich_help_panel=HOW)
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.", rich_help_panel=OUT)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for NAME.csv, whose rows of other figures stay, and for the rows from which "
                     "screening, ranking, norms and adaptation go on when they are started again.",
                     rich_help_panel=OUT),
    ] = None,
) -> None:  # fmt: skip
    """Measure what nasimb claims: ratios of times taken turn by turn in one process, with device and versions.

    `nasimb bench head storage` takes minutes; `nasimb bench candidate --data cifar10:DIR --images 10000` more. Exit
    code 1 if a measurement failed; one that misses its target is shown, and is no failure.
    """
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from nasimb.bench import measures
    from nasimb.bench.base import Conditions
    from nasimb.bench.provenance import provenance
    from nasimb.bench.report import run_measures, table, write_csv, write_json
    from nasimb.phases.prepare import choose_device
    from nasimb.report.show import stdout, terminal_table

    wanted = measures(tuple(dict.fromkeys(names or DEFAULT_NAMES)), tuple(only or ()))
    config = _config(data, source, supernet, space, imbalance_factor, seed, device, download)
    found: dict[str, list[Figure]] = {}
    torch.set_num_threads(threads or torch.get_num_threads())
    clock = time.process_time if cpu_time else time.perf_counter
    with watching() as (watcher, stop), threadpool_limits(threads):
        conditions = Conditions(
            config, synthetic=data is None and supernet is None, space=space or SPACE, images=images,
            device=choose_device(device), repetitions=repetitions, quick=quick, large=large, folder=out,
            clock=clock, watcher=watcher, stop=stop, started=clock(), seeds=seeds,
            clock_name="processor time" if cpu_time else "wall clock",
        )  # fmt: skip
        shared = provenance(conditions)
        for name, some in wanted.items():
            found[name] = []
            for figure in run_measures(some, conditions):
                found[name].append(figure)
                watcher.say(_line(figure))
                if json_file is not None:
                    write_json(json_file, found, shared)
                if out is not None:
                    write_csv(out, name, found[name], shared, measured=some)
    versions = ", ".join(f"{name} {shared['versions'][name]}" for name in ("python", "torch", "scikit-learn", "optuna"))
    for name, figures in found.items():
        stdout().print(terminal_table(table(figures), title=name))
    print(f"{shared['device']}, {shared['threads']} threads used, {shared['clock']}; {versions}")
    if any(figure.failed for figures in found.values() for figure in figures):
        raise typer.Exit(1)


def _config(
    data: str | None, source: str | None, supernet: Path | None, space: str | None, imbalance_factor: float | None,
    seed: int, device: str, download: bool,
) -> RunConfig:  # fmt: skip
    from nasimb.config import load_config

    options = {
        "data": data, "source": source, "supernet": None if supernet is None else str(supernet), "space": space,
        "imbalance_factor": imbalance_factor, "seed": seed, "device": device, "download": download,
    }  # fmt: skip
    return load_config(None, options)


def _line(figure: Figure) -> str:
    """One figure as it is found, for stderr."""
    if figure.value is None:
        return f"{figure.figure}: {'failed' if figure.failed else 'left out'}. {figure.reason}"
    target = f", target {figure.target}" if figure.target else ""
    return f"{figure.figure}: {figure.value:.4g} {figure.unit}{target}"
