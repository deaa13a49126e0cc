"""`nasimb predict` against the model alone: images a second from files to rows of a table.

The networks are the largest and the smallest subnet of the space, with random weights: what they say does not matter
here. The files are PNGs of the size that the network takes.
Shapes: B images of a batch, K classes.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from nasimb.bench.base import Conditions, Figure, made_with, ratio_figure
from nasimb.deliver.predict import write_predictions
from nasimb.export import Description, Model
from nasimb.space import SearchSpace, Subnet
from nasimb.supernet import build_supernet
from nasimb.supernet.base import images_at_a_time
from nasimb.supernet.sampling import generator_for

IMAGES, QUICK_IMAGES, CLASSES = 4000, 64, 10
LEAST = 0.9


@torch.no_grad()
def predict_over_raw(conditions: Conditions) -> Iterator[Figure]:
    """Images a second of the command over those of the model alone, on images that are decoded already."""
    space = SearchSpace.load(conditions.space)
    count = conditions.images or (QUICK_IMAGES if conditions.quick else IMAGES)
    batch_size = images_at_a_time(space, conditions.device)
    with tempfile.TemporaryDirectory() as folder:
        images_BCHW, paths = _written(Path(folder), count, space.max_resolution)
        for name, subnet, least in (
            ("largest", space.largest(), None if conditions.quick else LEAST),
            ("smallest", space.smallest(), None),
        ):
            model = _model(space, subnet).to(conditions.device).eval()
            parts = [part.to(conditions.device) for part in torch.split(images_BCHW, batch_size)]
            seconds = conditions.compare(
                name,
                {
                    "raw": partial(_alone, model, parts),
                    "predict": partial(_from_files, model, paths),
                },
            )
            found = ratio_figure(
                f"predict_over_raw_{name}", seconds, "raw", "predict", at_least=least,
                against=f"images a second of nasimb predict, from PNG files to rows / of the model alone on decoded "
                f"images; {name} subnet, {count:,} images of {space.max_resolution} pixels",
                detail={"space": conditions.space, "batch_size": batch_size},
            )  # fmt: skip
            yield from made_with([found], data="made-up images", supernet="not trained")


def _alone(model: Model, parts: list[Tensor]) -> list[Tensor]:
    return [model(part_BCHW).softmax(1).cpu() for part_BCHW in parts]


def _from_files(model: Model, paths: list[Path]) -> None:
    write_predictions(model, paths, io.StringIO())


def _written(folder: Path, count: int, side: int) -> tuple[Tensor, list[Path]]:
    """Colour images as a batch, and as files: smooth, as photos are, since noise takes long to decode."""
    rng, paths, arrays = np.random.default_rng(0), [], []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        image = coarse.resize((side, side), Image.Resampling.BICUBIC)
        paths.append(folder / f"{number:06}.png")
        image.save(paths[-1])
        arrays.append(np.asarray(image).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(arrays)), paths


def _model(space: SearchSpace, subnet: Subnet) -> Model:
    supernet = build_supernet(space, 3, CLASSES, torch.full((3,), 128.0), torch.full((3,), 64.0), generator_for(0, 0))
    backbone = supernet.extract(subnet, None)
    with torch.inference_mode():
        width = backbone.eval()(torch.zeros(1, 3, space.max_resolution, space.max_resolution)).shape[1]
    names = tuple(f"class {k}" for k in range(CLASSES))
    description = Description(
        names, (1,) * CLASSES, 3, space.max_resolution, space, subnet, "source", {"name": "none", "setting": None}
    )
    return Model(backbone, nn.Linear(width, CLASSES), description)
