"""`nasimb head`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasimb.cli.options import DATA_FORMS
from nasimb.visible import json_text, visible


def head(
    source: Annotated[Path, typer.Option("--from", help="A finished run, or a model folder.")],
    data: Annotated[str, typer.Option(help=f"The new images: {DATA_FORMS}.")],
    loss: Annotated[
        str,
        typer.Option(
            help="balanced_softmax, inverse_frequency, class_balanced, logit_adjusted, ldam, focal, deferred, "
            "cross_entropy; or gda, ridge."
        ),
    ] = "balanced_softmax",
    imbalance_factor: Annotated[
        float | None, typer.Option(help="Make the new images long-tailed: largest class / smallest.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Shape of that long tail: exponential or step.")] = "exponential",
    seed: Annotated[int, typer.Option(help="Of splits, folds and the long tail.")] = 0,
    head_crops: Annotated[
        int, typer.Option(min=1, help="Fit the heads to so many shifted copies of every image, itself included.")
    ] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Where the new model goes. Default: the next free FROM/heads/NUMBER.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="Leave unreadable files out and count them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Retrain only the head of a finished model on new long-tailed images, with other classes if need be.

    The network stays as it is, to the bit. Printed are the old head, a plain and the reweighted new head, on the new
    test images, and what the new one gains there; the new model is saved beside the old one, never over it, and which
    of them is used is yours to say.
    """
    from nasimb.phases.prepare import choose_device
    from nasimb.report.show import stdout, terminal_table
    from nasimb.retrain import head_table, retrain_head, verdict

    result = retrain_head(
        source, data, loss, imbalance_factor=imbalance_factor, profile=profile, seed=seed, out=out,
        device=choose_device(device), skip_bad_images=skip_bad_images, crops=head_crops,
    )  # fmt: skip
    if as_json:
        print(json_text(result, indent=2))
        return
    for note in result["notes"]:
        print(visible(f"note: {note}"))
    stdout().print(terminal_table(head_table(result), title=f"{data}, on {result['test_images']} test images"))
    print(verdict(result))
    print(visible(f"saved in {result['saved']}; {source} still means the old model"))
