"""`nasimb supernet train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasimb.cli.launch import ranks_of_torchrun
from nasimb.cli.options import DATA_FORMS, Sampling
from nasimb.cli.starting import importing
from nasimb.display import watching


def supernet_train(
    context: typer.Context,
    source: Annotated[str, typer.Option(help=f"Balanced images: {DATA_FORMS}.")],
    out: Annotated[Path, typer.Option(help="Folder the super-network is left in; the same command on it resumes.")],
    budget: Annotated[str, typer.Option(help="What it may cost: 4gpu-h, 30min, 2cpu-h.")],
    space: Annotated[
        str, typer.Option(help="Networks it holds: digits-resnet, cifar-resnet, or a path ending in .yaml.")
    ] = "cifar-resnet",
    sampling: Annotated[
        Sampling, typer.Option(help="How often classes are drawn: as they are, all alike, or between.")
    ] = Sampling.balanced,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    download: Annotated[bool, typer.Option("--download", help="Allow CIFAR to be downloaded.")] = False,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="Any option of the training: --set batch_size=128. Repeatable.")
    ] = None,
) -> None:
    """Train a super-network on balanced images and keep it for any number of searches (--supernet DIR).

    The same command again resumes an interrupted training.

    Under torchrun the same command trains on several GPUs, or by several processes on CPUs, one batch together:

    `torchrun --nproc-per-node 4 --max-restarts 3 -m nasimb supernet train --source ... --budget 4gpu-h --out ...`

    The budget pays for all of them. Batch norms see the share of their own process, or with `--set sync_bn=true` the
    whole batch: then the loss is that of one process.
    """
    with importing():
        from nasimb.config import load_config
        from nasimb.pipeline import train_supernet

    assignments = [f"training.sampling={sampling.value}", *(f"training.{text}" for text in assign or [])]
    options = {"data": source, "source": source, "space": space, "budget": budget, "seed": seed, "device": device,
               "download": download}  # fmt: skip
    with ranks_of_torchrun() as ranks, watching(alone=ranks.size == 1, speaking=ranks.first) as (watcher, stop):
        with ranks.alike():
            config = load_config(None, options, assignments)
        info = train_supernet(config, out, begun=context.obj, watcher=watcher, stop=stop, ranks=ranks)
        if ranks.first:
            print(f"{out}: {info['steps']} steps on {source}, last loss {info.get('last_loss')}")
            print(f"nasimb search --supernet {out} --data ... --budget ...")
