"""`nasimb predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasimb.cli.onsite_options import Device, ModelFolder
from nasimb.cli.pipes import NOBODY_READS, tell_nobody
from nasimb.cli.starting import importing
from nasimb.display import watching
from nasimb.durable import check_writable
from nasimb.visible import visible


def predict(
    model: ModelFolder,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders (every image below), patterns ('photos/**/*.jpg'), and lists: a .txt, .csv or .lst "
            "with one path a line, or list:FILE. A file that is named twice has one row."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the table (CSV) here, whole or not at all. Default: standard output.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="So many of the most probable classes.")] = 1,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add a column for the probability of every class.")
    ] = False,
    batch: Annotated[int | None, typer.Option(min=1, help="Images of a pass. Default: what is quick here.")] = None,
    device: Device = "auto",
) -> None:
    """Say which class each image is of: a row a file, with its probability.

    Files that cannot be read are named on stderr and left out; the exit code is then 1.
    """
    with importing():
        from nasimb.deliver.listing import listed
        from nasimb.deliver.predict import write_predictions
        from nasimb.deliver.writing import table_file
        from nasimb.export import load, model_folder
        from nasimb.phases.prepare import choose_device

    if out is not None:
        check_writable(out)
    loaded = load(model_folder(model)).to(choose_device(device))
    found = listed(images)
    try:
        with watching() as (watcher, stop), table_file(out) as file:
            for note in found.notes:
                watcher.say(f"note: {visible(note)}")
            done = write_predictions(
                loaded, found.paths, file, top=top_k, probabilities=probabilities, batch_size=batch,
                watcher=watcher, stop=stop,
            )  # fmt: skip
    except BrokenPipeError:
        tell_nobody()
        raise typer.Exit(NOBODY_READS) from None
    typer.echo(visible(done.sentence(None if out is None else str(out))), err=True)
    if done.unreadable:
        raise typer.Exit(1)
