"""`nasimb adapt`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nasimb.cli.onsite_options import (
    Batch,
    Data,
    Device,
    ModelFolder,
    Ordered,
    ProfileData,
    Seed,
    SkipBadImages,
    StrategyName,
)
from nasimb.cli.pipes import NOBODY_READS, told
from nasimb.cli.starting import importing
from nasimb.display import watching
from nasimb.durable import check_writable
from nasimb.onsite.orders import Order
from nasimb.visible import json_text, visible


def adapt(
    model: ModelFolder,
    data: Data,
    strategy: StrategyName = "mixed",
    batch: Batch = 64,
    profile_data: ProfileData = None,
    order: Ordered = Order.auto,
    seed: Seed = 0,
    report: Annotated[Path | None, typer.Option(help="Write a page (HTML, one file) here.")] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write the adapted model here, as a new model folder, if the verdict is to adapt; exit code 1 if not."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Save it against the verdict, if the last images were adapted to.")
    ] = False,
    device: Device = "auto",
    skip_bad_images: SkipBadImages = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Say what adapting a finished model to new, unlabelled images would change, and whether it should be.

    A dry run: the images pass the model as it is and its adapter, in order and batch by batch; the model stays as it
    is. Where images lie in folders named like the classes, both are tested on them too. What the model's layers are
    compared with is a profile of its training images, made on first use from the run's own data, and kept beside the
    model.
    """
    with importing():
        from nasimb.onsite.dryrun import check_can_be_saved, dry_run, save_adapted
        from nasimb.onsite.page import write_page
        from nasimb.onsite.tables import text
        from nasimb.onsite.watched import watch
        from nasimb.phases.prepare import choose_device

    if save is not None:
        check_can_be_saved(strategy, save)
    if report is not None:
        check_writable(report)
    watched = watch(
        model, data, strategy, batch_size=batch, profile_data=profile_data, order=order, seed=seed,
        device=choose_device(device), skip_bad_images=skip_bad_images,
    )  # fmt: skip
    with watching() as (watcher, stop):
        found = dry_run(watched, watcher=watcher, stop=stop)
    # Where nobody reads, what is to be written is written all the same.
    read = told(json_text(found.to_dict(), indent=2) if as_json else text(found), sys.stdout)
    if report is not None:  # last, so that a disk that is full takes away nothing else
        write_page(found, report)
    if save is not None:
        if not (found.verdict.adapt or force):
            hint = " --force saves it anyway." if found.watched.adapter.state.adapting else ""
            typer.echo(visible(f"nasimb: nothing was saved. {found.verdict.sentence}{hint}"), err=True)
            raise typer.Exit(1)
        save_adapted(found, save)
        read = told(visible(f"saved in {save}"), sys.stderr if as_json else sys.stdout) and read
    if not read:
        raise typer.Exit(NOBODY_READS)
