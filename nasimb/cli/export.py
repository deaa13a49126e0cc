"""`nasimb export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nasimb.cli.options import DATA_FORMS
from nasimb.cli.starting import importing
from nasimb.errors import InputError
from nasimb.visible import visible


class ModelFormat(StrEnum):
    """What a model is exported as."""

    torch_export = "torch-export"
    onnx = "onnx"
    safetensors = "safetensors"


def export(
    source: Annotated[
        str, typer.Argument(metavar="RUN[#TRIAL]", help="A finished run, one of its trials, or a model folder.")
    ],
    form: Annotated[ModelFormat, typer.Option("--format", help="torch-export, onnx, safetensors.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="Resizing and standardising inside: the input is uint8 pixels.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare the written file with the model on real images, and time both, before it is kept."
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help=f"Check with these images: {DATA_FORMS}. Default of --check: the training images of its run."
        ),
    ] = None,
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="Leave unreadable files of --data out.")
    ] = False,
) -> None:
    """Write a model for use elsewhere: norms in the convolutions, a plain linear head, any batch size.

    Beside it stand preprocessing.json, from an image file to the input, and README.md, the model card. The names of
    the classes are inside the file. RUN#7 is the subnet of trial 7 with its head fitted again.
    """
    with importing():
        from nasimb.deliver.shipping import check_target
        from nasimb.deliver.shipping import export as write
        from nasimb.deliver.sources import found_model, images_to_check

    if skip_bad_images and data is None:
        raise InputError("--skip-bad-images is of --data", got="no --data", do="Name images, or leave it out.")
    check_target(form.value, out, with_preprocessing=with_preprocessing)
    found = found_model(source)
    images = images_to_check(found, data, skip_bad_images=skip_bad_images) if check or data is not None else None
    done = write(found.model, form.value, out, with_preprocessing=with_preprocessing, images=images)
    for line in done.lines():
        print(visible(line))
