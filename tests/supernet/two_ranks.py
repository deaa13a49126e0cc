"""What two processes find together, for test_ranks.py and test_torchrun.py: `torchrun ... two_ranks.py FOLDER`.

Every scenario takes its ranks, so that the test can ask one process the same.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nasimb.cli.launch import ranks_of_torchrun
from nasimb.data.base import ImageSet
from nasimb.data.store import TensorStore
from nasimb.errors import NasimbError, WorkError
from nasimb.nn.elastic import ElasticNorm
from nasimb.nn.moments import OverRanks, batch_moments, synchronised
from nasimb.nn.norms import NORMS
from nasimb.space import SearchSpace, Stage
from nasimb.supernet import build_supernet
from nasimb.supernet.ranks import ONE_PROCESS, Ranks
from nasimb.supernet.recipe import Recipe
from nasimb.supernet.train import Training

SPACE = SearchSpace(
    name="tiny",
    backbone="resnet",
    stem_width=4,
    resolutions=(7, 8),
    stages=(
        Stage(depths=(1, 2), widths=(4, 6), kernel_sizes=(1, 3), norms=("bn", "nbn")),
        Stage(depths=(1, 2), widths=(6, 8), kernel_sizes=(3, 5), norms=("nbn", "bn"), stride=2),
    ),
    taps=(1, 2),
)
STEPS = 24
CPU = torch.device("cpu")
Found = dict[str, Any]


def made_images() -> ImageSet:
    """Three classes of 8x8 images (20, 13 and 7) that differ in where they are bright, behind noise."""
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.tensor([0] * 20 + [1] * 13 + [2] * 7)
    pixels = torch.randint(0, 160, (40, 1, 8, 8), generator=generator)
    for position, label in enumerate(labels_N.tolist()):
        pixels[position, :, 2 * label : 2 * label + 3] += 60
    return ImageSet(TensorStore(pixels.to(torch.uint8), [("image ", 40)]), torch.arange(40), labels_N, ("a", "b", "c"))


def new_training(ranks: Ranks, *, weights: int = 0, **options: Any) -> Training:
    """`weights` is the seed of the starting weights."""
    recipe = Recipe.model_validate({"batch_size": 16, "precision": "float32", "random_subnets": 2, **options})
    mean_C, std_C, generator = torch.tensor([100.0]), torch.tensor([60.0]), torch.Generator().manual_seed(weights)
    supernet = build_supernet(SPACE, 1, 3, mean_C, std_C, generator)
    return Training(supernet, made_images(), recipe, seed=0, device=CPU, flip=True, ranks=ranks)


def curve(ranks: Ranks, *, steps: int = STEPS, **options: Any) -> Found:
    """The losses of a short training, and the weights it ends with."""
    current = new_training(ranks, **options)
    losses = [float(current.step(step / steps)) for step in range(steps)]
    return {"losses": torch.tensor(losses, dtype=torch.float64), **weights(current)}


def weights(current: Training) -> Found:
    return {name: tensor.detach().clone() for name, tensor in current.supernet.state_dict().items()}


def meetings(ranks: Ranks) -> Found:
    """Every way to agree, each rank giving something of its own."""
    own = {"rank": ranks.rank, "text": "ä" * (1 + 2 * ranks.rank), "none": None, "list": [1.5, True]}
    tensors = {"a": torch.arange(6.0).view(2, 3) + ranks.rank, "b": torch.tensor(7 + ranks.rank), "c": torch.empty(0)}
    got = ranks.tensors_from_first(tensors if ranks.first else {})
    return {
        "total": ranks.total(0.1 + ranks.rank),
        "highest": ranks.highest(-1e300 if ranks.first else -2.5),
        "number": ranks.number_from_first(0.1 if ranks.first else 5.0),
        "sum": ranks.sum_(torch.full((3,), 1.0 + ranks.rank, dtype=torch.float64)),
        "told": json.dumps(ranks.from_first(own), sort_keys=True),
        "told by the last": json.dumps(ranks.from_first(own, source=ranks.size - 1), sort_keys=True),
        **{f"tensor {name}": tensor for name, tensor in got.items()},
    }


def failures(ranks: Ranks) -> Found:
    """What each rank raises where the ranks in `failing` fail, and whether all still meet afterwards."""
    found = {}
    for name, failing in {"nobody": (), "last": (1,), "both": (0, 1)}.items():
        try:
            with ranks.alike():
                if ranks.rank in failing:
                    raise WorkError(f"rank {ranks.rank} must do it", got="nothing", do="Help it.")
            found[name] = "went on"
        except NasimbError as error:
            found[name] = f"{type(error).__name__} {error.exit_code} {error}"
    found["met"] = ranks.total(1)
    return found


def not_finite(ranks: Ranks) -> Found:
    """The error of a step whose loss is not finite because of what one rank holds."""
    current = new_training(ranks)
    if not ranks.first:
        with torch.no_grad():
            next(current.supernet.parameters()).fill_(torch.nan)
    try:
        current.step(0.0)
    except NasimbError as error:
        return {"raised": f"{type(error).__name__} {error}"}
    return {"raised": "nothing"}


def shared(ranks: Ranks) -> Found:
    """Ranks that start from other weights, and of which the first has done two steps before, after `share`."""
    current, alone = new_training(ranks, weights=ranks.rank, ema_decay=0.9), new_training(ONE_PROCESS, ema_decay=0.9)
    if ranks.first:
        for _ in range(2):
            alone.step(0.1)
        current._take(*alone._state(), Path("itself"))
    current.share()
    steps = current.steps_done
    current.step(0.5)
    averaged = {f"average.{name}": tensor for name, tensor in current.finished().state_dict().items()}
    return {"steps": steps, **weights(current), **averaged}


def normalised(ranks: Ranks) -> Found:
    """Outputs and gradients of every norm over images far from zero, of which the first rank has 5 and the last 3."""
    found = {}
    x_BCHW = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1)) + 30
    pull_BCHW = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    own = slice(0, 8) if ranks.size == 1 else (slice(0, 5), slice(5, 8))[ranks.rank]
    moments_for = batch_moments if ranks.size == 1 else synchronised(ranks.sum_)
    for name, spec in NORMS.items():
        norm, mine = spec().build(4, torch.Generator().manual_seed(0)), x_BCHW[own].clone().requires_grad_(True)
        y_BCHW = norm(mine, moments_for("key", mine))
        torch.autograd.backward((y_BCHW * pull_BCHW[own]).sum())
        assert mine.grad is not None
        found |= {f"{name} {ranks.rank} y": y_BCHW.detach(), f"{name} {ranks.rank} x": mine.grad}
        for part, parameter in norm.named_parameters():
            assert parameter.grad is not None
            found[f"{name} {part}"] = ranks.sum_(parameter.grad)
    return found


def reached(ranks: Ranks, *, together: bool) -> Found:
    """Outputs of norms that reach further than others, on the first rank's 5 images and the last one's 3."""
    x_BCHW = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1)) + 30
    own = slice(0, 8) if ranks.size == 1 else (slice(0, 5), slice(5, 8))[ranks.rank]
    found = {}
    for name in ("bn", "ghost_bn", "sync_bn"):
        norm = ElasticNorm("key", 4, {name: NORMS[name].model_validate({})}, torch.Generator())
        found[name] = norm(x_BCHW[own], name, OverRanks(ranks.sum_, together)).detach()
        found[f"{name} alone"] = norm(x_BCHW[own], name, batch_moments).detach()
    return found


Scenario = Callable[[Ranks], Found]

QUICK: dict[str, Scenario] = {
    "meetings": meetings,
    "failures": failures,
    "not finite": not_finite,
    "shared": shared,
    "normalised": normalised,
    "reached apart": partial(reached, together=False),
    "reached together": partial(reached, together=True),
    "own statistics": partial(curve, steps=4, batch_size=13, ema_decay=0.5),
    "own statistics, accumulated": partial(curve, steps=4, batch_size=13, accumulation=2),
    "common statistics": partial(curve, steps=4, batch_size=13, sync_bn=True),
    "common statistics, accumulated": partial(curve, steps=2, batch_size=13, accumulation=2, sync_bn=True),
    "common statistics in bfloat16": partial(curve, steps=2, sync_bn=True, precision="bfloat16"),
}
LONG: dict[str, Scenario] = {
    "own statistics": curve,
    "common statistics": partial(curve, sync_bn=True),
}


def main(folder: Path, scenarios: dict[str, Scenario]) -> None:
    """Leaves what this rank found in `folder`."""
    torch.set_num_threads(1)
    with ranks_of_torchrun() as ranks:
        found = {name: scenario(ranks) for name, scenario in scenarios.items()}
    torch.save(found, folder / f"{ranks.rank}.pt")


def forked(folder: Path, environment: dict[str, str]) -> None:
    """A rank in a process that is there already, with its imports."""
    os.environ.update(environment)
    main(folder, QUICK)


if __name__ == "__main__":
    main(Path(sys.argv[1]), LONG)
