"""The options that `nasimb adapt` and `nasimb monitor` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasimb.cli.options import DATA_FORMS
from nasimb.onsite.orders import Order

ModelFolder = Annotated[Path, typer.Argument(help="A finished run, or a model folder.")]
Data = Annotated[
    str,
    typer.Option(
        help=f"The new images: {DATA_FORMS}. A folder of loose images is unlabelled, and so is every image whose label "
        "is no class of the model (a folder unlabelled/, a ? in a list).",
    ),
]
StrategyName = Annotated[
    str,
    typer.Option(help="mixed, ema:0.1, batch, prior:16, mean-step:0.5, huber-step:1.5; or source, which never adapts."),
]
Batch = Annotated[int, typer.Option(min=1, help="Images of a batch.")]
ProfileData = Annotated[
    str | None,
    typer.Option(
        help="Training images that shifts are judged by: target or source (of the model's own run), none, or a data "
        "set as --data. Default: the profile kept beside the model; where none is, one of target is made and kept. "
        "What is named here serves this time; it is kept too unless a profile of other images is.",
    ),
]
Ordered = Annotated[
    Order,
    typer.Option(
        help="Of the images: given, shuffled; auto shuffles class folders, which else come one class after the other."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the shuffle.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda.")]
SkipBadImages = Annotated[bool, typer.Option("--skip-bad-images", help="Leave unreadable files out and count them.")]
