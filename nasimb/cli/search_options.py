"""The options that `nasimb search` and `nasimb plan` share, and the configuration that they ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasimb.cli.options import DATA_FORMS, STORAGE_HELP, Sampling

if TYPE_CHECKING:
    from nasimb.config import RunConfig

WHAT, HOW, RUN = "What to search", "How to search", "The run"

Data = Annotated[str | None, typer.Option(help=f"Imbalanced images: {DATA_FORMS}.", rich_help_panel=WHAT)]
Source = Annotated[
    str | None,
    typer.Option(
        help='Balanced images that train the super-network (as --data), or "target": the imbalanced images '
        "themselves. Default: the data set's own balanced part (digits), else target.",
        rich_help_panel=WHAT,
    ),
]
Supernet = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a super-network trained before (nasimb supernet train); its share of the budget goes to "
        "the search.",
        rich_help_panel=WHAT,
    ),
]
ImbalanceFactor = Annotated[
    float | None,
    typer.Option(
        help="Make the target long-tailed by leaving images out: largest class / smallest, e.g. 100. Default: as "
        "it is (digits: 20).",
        rich_help_panel=WHAT,
    ),
]
Profile = Annotated[
    str | None, typer.Option(help="Shape of that long tail: exponential or step.", rich_help_panel=WHAT)
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="What it may cost: 8gpu-h, 2cpu-h, 30min, 200trials, or several joined by commas (first reached "
        "stops). Default 3min.",
        rich_help_panel=HOW,
    ),
]
Space = Annotated[
    str | None,
    typer.Option(
        help="Networks to choose from: digits-resnet, cifar-resnet, or a path ending in .yaml. Default: by the data.",
        rich_help_panel=HOW,
    ),
]
Objective = Annotated[
    str | None,
    typer.Option(
        help="balanced_accuracy (default), few, worst_recall, g_mean, macro_f1, accuracy; with ,macs or ,params a "
        "Pareto search of accuracy against cost.",
        rich_help_panel=HOW,
    ),
]
MaxMacs = Annotated[str | None, typer.Option(help="Most multiply-accumulates an image, e.g. 50M.", rich_help_panel=HOW)]
MaxParams = Annotated[str | None, typer.Option(help="Most parameters, e.g. 300K.", rich_help_panel=HOW)]
Sampler = Annotated[str | None, typer.Option(help="evolution (default), tpe, nsga2 or random.", rich_help_panel=HOW)]
Draws = Annotated[
    Sampling | None,
    typer.Option(
        help="How often the super-network's training draws each class: as often as it is (natural), all alike "
        "(balanced), or between (sqrt). Default: balanced; natural on the target itself.",
        rich_help_panel=HOW,
    ),
]
Calibration = Annotated[
    list[str] | None,
    typer.Option(
        help="What sets BN statistics: images of the source (default), target-natural, target-balanced, or mixed of "
        "both, layer by layer; and what others' habits cost: inherit (the largest subnet's), reset (none), update "
        "(running averages). Several, joined by commas or one an option, are searched, and compared in the report.",
        rich_help_panel=HOW,
    ),
]
HeadCrops = Annotated[
    int | None,
    typer.Option(
        help="Fit the final heads to so many shifted copies of every image, itself included. Default 1.",
        rich_help_panel=HOW,
    ),
]
Validation = Annotated[
    str | None,
    typer.Option(
        help="What ranks candidates: leave-one-out over your images, or holdout. auto (default): leave-one-out "
        "unless the super-network has seen them.",
        rich_help_panel=HOW,
    ),
]
Seed = Annotated[int | None, typer.Option(help="Decides everything random. Default 0.", rich_help_panel=RUN)]
Run = Annotated[
    Path | None,
    typer.Option(
        help="Run folder; the same command on it resumes. Default: runs/ and a name from data, budget and seed.",
        rich_help_panel=RUN,
    ),
]
Config = Annotated[
    str | None,
    typer.Option(help="A YAML file of options, or a shipped one by name; the options here win.", rich_help_panel=RUN),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any other option, as RUN/config.yaml names it: --set heads.folds=3 --set training.batch_size=128.",
        rich_help_panel=RUN,
    ),
]
Device = Annotated[
    str | None, typer.Option(help="auto (default: a GPU if there is one), cpu, cuda, cuda:1.", rich_help_panel=RUN)
]
SkipBadImages = Annotated[
    bool | None,
    typer.Option(
        "--skip-bad-images",
        help="Leave unreadable files out and count them, instead of stopping.",
        rich_help_panel=RUN,
    ),
]
Download = Annotated[bool | None, typer.Option("--download", help="Allow CIFAR to be downloaded.", rich_help_panel=RUN)]
Workers = Annotated[
    int,
    typer.Option(
        min=0,
        help="Processes on this machine that share the search, a GPU each where there are several. Default: this one "
        "alone, and whoever joins with nasimb worker.",
        rich_help_panel=RUN,
    ),
]
Storage = Annotated[str | None, typer.Option(envvar="NASIMB_STORAGE", help=STORAGE_HELP, rich_help_panel=RUN)]


def configuration(
    *, data: Data, source: Source, supernet: Supernet, imbalance_factor: ImbalanceFactor, profile: Profile,
    budget: Budget, space: Space, objective: Objective, max_macs: MaxMacs, max_params: MaxParams, sampler: Sampler,
    sampling: Draws, calibration: Calibration, head_crops: HeadCrops, validation: Validation, seed: Seed, run: Run,
    config: Config, assign: Assignments, device: Device, skip_bad_images: SkipBadImages, download: Download,
) -> tuple[RunConfig, Path]:  # fmt: skip
    """What these options ask for, and the folder of the run. Raises as `load_config`."""
    from nasimb.config import as_typed

    chosen = as_typed(
        data=data, source=source, supernet=supernet, imbalance_factor=imbalance_factor, profile=profile, budget=budget,
        space=space, objective=objective, max_macs=max_macs, max_params=max_params, sampler=sampler,
        sampling=None if sampling is None else sampling.value, calibration=calibration, head_crops=head_crops,
        validation=validation, seed=seed, config=config, assign=assign, device=device,
        skip_bad_images=skip_bad_images, download=download,
    )  # fmt: skip
    return chosen, run or Path("runs") / chosen.run_name()
