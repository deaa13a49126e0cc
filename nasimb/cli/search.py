"""`nasimb search`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nasimb.cli.launch import refuse_torchrun
from nasimb.cli.options import DATA_FORMS, Format, Sampling
from nasimb.display import watching

WHAT, HOW, RUN = "What to search", "How to search", "The run"


def search(
    data: Annotated[str | None, typer.Option(help=f"Imbalanced images: {DATA_FORMS}.", rich_help_panel=WHAT)] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help='Balanced images that train the super-network (as --data), or "target": the imbalanced images '
            "themselves. Default: the data set's own balanced part (digits), else target.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    supernet: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a super-network trained before (nasimb supernet train); its share of the budget goes to "
            "the search.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    imbalance_factor: Annotated[
        float | None,
        typer.Option(
            help="Make the target long-tailed by leaving images out: largest class / smallest, e.g. 100. Default: as "
            "it is (digits: 20).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Shape of that long tail: exponential or step.", rich_help_panel=WHAT)
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What it may cost: 8gpu-h, 2cpu-h, 30min, 200trials, or several joined by commas (first reached "
            "stops). Default 3min.",
            rich_help_panel=HOW,
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            help="Networks to choose from: digits-resnet, cifar-resnet, or a path ending in .yaml. Default: by the "
            "data.",
            rich_help_panel=HOW,
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="balanced_accuracy (default), few, worst_recall, g_mean, macro_f1, accuracy; with ,macs or ,params a "
            "Pareto search of accuracy against cost.",
            rich_help_panel=HOW,
        ),
    ] = None,
    max_macs: Annotated[
        str | None, typer.Option(help="Most multiply-accumulates an image, e.g. 50M.", rich_help_panel=HOW)
    ] = None,
    max_params: Annotated[str | None, typer.Option(help="Most parameters, e.g. 300K.", rich_help_panel=HOW)] = None,
    sampler: Annotated[
        str | None, typer.Option(help="evolution (default), tpe, nsga2 or random.", rich_help_panel=HOW)
    ] = None,
    sampling: Annotated[
        Sampling | None,
        typer.Option(
            help="How often the super-network's training draws each class: as often as it is (natural), all alike "
            "(balanced), or between (sqrt). Default: balanced; natural on the target itself.",
            rich_help_panel=HOW,
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Images that set BN statistics: source (default), target-natural, target-balanced; several joined by "
            "commas are searched.",
            rich_help_panel=HOW,
        ),
    ] = None,
    head_crops: Annotated[
        int | None,
        typer.Option(
            help="Fit the final heads to so many shifted copies of every image, itself included. Default 1.",
            rich_help_panel=HOW,
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            help="What ranks candidates: leave-one-out over your images, or holdout. auto (default): leave-one-out "
            "unless the super-network has seen them.",
            rich_help_panel=HOW,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides everything random. Default 0.", rich_help_panel=RUN)] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Run folder; the same command on it resumes. Default: runs/ and a name from data, budget and seed.",
            rich_help_panel=RUN,
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="A YAML file of options, or a shipped one by name; the options here win.", rich_help_panel=RUN
        ),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any other option, as RUN/config.yaml names it: --set heads.folds=3 --set training.batch_size=128.",
            rich_help_panel=RUN,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto (default: a GPU if there is one), cpu, cuda, cuda:1.", rich_help_panel=RUN)
    ] = None,
    skip_bad_images: Annotated[
        bool | None,
        typer.Option(
            "--skip-bad-images",
            help="Leave unreadable files out and count them, instead of stopping.",
            rich_help_panel=RUN,
        ),
    ] = None,
    download: Annotated[
        bool | None, typer.Option("--download", help="Allow CIFAR to be downloaded.", rich_help_panel=RUN)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print result.json instead of tables.", rich_help_panel=RUN)
    ] = False,
) -> None:
    """Search the best network for imbalanced images within a budget: --budget 3min tries it on embedded digits.

    A super-network is trained on balanced images and frozen; Optuna samples subnets of it; each is scored with a
    reweighted linear head on your images, of which a part screens them first where there are many. The winner, a table
    and the spend are left in the run folder.
    The same command again resumes an interrupted run.
    """
    refuse_torchrun()
    from nasimb.config import load_config
    from nasimb.pipeline import run_search
    from nasimb.report.show import print_report

    options: dict[str, Any] = {
        "data": data, "source": source, "supernet": None if supernet is None else str(supernet),
        "imbalance_factor": imbalance_factor, "profile": profile, "budget": budget, "space": space,
        "objective": objective, "max_macs": max_macs, "max_params": max_params, "sampler": sampler,
        "calibrations": None if calibration is None else calibration.split(","), "validation": validation,
        "seed": seed, "device": device, "skip_bad_images": skip_bad_images, "download": download,
    }  # fmt: skip
    more = [] if sampling is None else [f"training.sampling={sampling.value}"]
    more += [] if head_crops is None else [f"heads.crops={head_crops}"]
    chosen = load_config(config, options, [*more, *(assign or [])])
    folder = run or Path("runs") / chosen.run_name()
    with watching() as (watcher, stop):
        result = run_search(chosen, folder, watcher=watcher, stop=stop)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        print_report([folder], Format.terminal)
