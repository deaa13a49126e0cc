"""`nasimb evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasimb.cli.onsite_options import Device, ModelFolder, SkipBadImages
from nasimb.cli.options import DATA_FORMS
from nasimb.cli.starting import importing
from nasimb.display import watching
from nasimb.visible import json_text


def evaluate(
    model: ModelFolder,
    data: Annotated[
        str,
        typer.Option(help=f"Labelled images: {DATA_FORMS}. Of data with a test split that is taken, else all images."),
    ],
    against: Annotated[
        Path | None, typer.Option(help="Another run or model folder of the same classes, tested on the same images.")
    ] = None,
    class_costs: Annotated[
        Path | None,
        typer.Option(
            help="What mistakes cost, as CSV: class,cost and a row a class; or class,NAME,... and a row of costs for "
            "every true class."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    device: Device = "auto",
    skip_bad_images: SkipBadImages = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Measure a finished model on labelled images: every figure with its interval, and every class.

    Shot groups are those of the images that the model was trained on. With --against, both models see the same
    images: the difference comes with paired bootstrap intervals and McNemar's exact test. Cost-weighted accuracy is 1
    minus what the mistakes cost, as a share of what the dearest mistake with every image would. Images that a model
    has learned from are counted and told of.
    """
    with importing():
        from nasimb.deliver import evaluation, tables
        from nasimb.phases.prepare import choose_device

    with watching() as (watcher, stop):
        found = evaluation.evaluate(
            model, data, against=against, costs=class_costs, seed=seed, device=choose_device(device),
            skip_bad_images=skip_bad_images, watcher=watcher, stop=stop,
        )  # fmt: skip
    if as_json:
        print(json_text(found.to_dict(), indent=2))
    else:
        tables.show(found)
