"""`nasimb retrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nasimb.cli.launch import refuse_torchrun
from nasimb.cli.starting import importing
from nasimb.display import watching
from nasimb.visible import json_text, visible


def retrain(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="RUN[#TRIAL]", help="A finished run, or one of its trials.")],
    budget: Annotated[str, typer.Option(help="What it may cost: 30min, 2gpu-h, 4cpu-h; 30 steps at least.")],
    loss: Annotated[
        str,
        typer.Option(
            help="balanced_softmax, inverse_frequency, class_balanced, logit_adjusted, ldam, focal, deferred (late "
            "reweighting), cross_entropy; or as YAML with options: {name: deferred, base: ldam}."
        ),
    ] = "balanced_softmax",
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Begin with random weights instead of the super-network's.")
    ] = False,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="How it is trained: --set learning_rate=0.05 --set sampling=balanced."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of images, and of random weights.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Its folder. Default: RUN/retrained/ and a name from these options.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Train the network that a search found fully on the imbalanced images, all weights: for those who have the time.

    nasimb report RUN shows it beside the winner, which stays what it is. The same command resumes what was interrupted.
    """
    refuse_torchrun()
    with importing():
        import pandas as pd

        from nasimb.config import assign as assign_into
        from nasimb.deliver.retraining import retrain as train
        from nasimb.phases.prepare import choose_device
        from nasimb.report.show import stdout, terminal_table
        from nasimb.report.tables import model_row

    options: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    assign_into(options, assign or [])
    assign_into(chosen, [f"loss={loss}"])
    with watching() as (watcher, stop):
        result = train(
            source, budget, loss=chosen["loss"], from_scratch=from_scratch, recipe=options, seed=seed, out=out,
            device=choose_device(device), begun=context.obj, watcher=watcher, stop=stop,
        )  # fmt: skip
    if as_json:
        print(json_text(result, indent=2))
        return
    table = pd.DataFrame([model_row("retrained", result["retrained"])])
    stdout().print(terminal_table(table, title="Retrained (test split)"))
    for note in result["notes"]:
        print(visible(f"note: {note}"))
    print(f"spent {result['spend']['spent_seconds']:.1f} s, {result['steps']:,} steps")
