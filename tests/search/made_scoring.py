"""A scoring over made images in which classes differ by where they are bright."""

from __future__ import annotations

from typing import Any

import torch

from nasimb.data.base import ImageSet
from nasimb.data.store import TensorStore
from nasimb.heads import HEADS
from nasimb.search.candidate import Scoring
from nasimb.space import SearchSpace
from nasimb.supernet import build_supernet
from nasimb.supernet.calibrate import Calibration


def images(counts: tuple[int, ...], seed: int, *, noise: int = 120, contrast: int = 90) -> ImageSet:
    """Images of 8 x 8 pixels in a random order: `contrast` on two rows that the class chooses, over `noise`."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    pixels = torch.randint(0, noise, (len(labels_N), 1, 8, 8), generator=generator)
    for position, label in enumerate(labels_N.tolist()):
        pixels[position, :, 2 * label : 2 * label + 2] += contrast
    order_N = torch.randperm(len(labels_N), generator=generator)
    store = TensorStore(pixels[order_N].to(torch.uint8), [(f"made {seed} ", len(labels_N))])
    return ImageSet(store, torch.arange(len(labels_N)), labels_N[order_N], tuple("abcd"[: len(counts)]))


def made_scoring(space: SearchSpace, fitted: ImageSet, **changes: Any) -> Scoring:
    """Ridge and the discriminant by leave-one-out over `fitted`, statistics of four even classes, fresh weights."""
    mean_C, std_C = torch.full((1,), 90.0), torch.full((1,), 60.0)
    supernet = build_supernet(space, 1, 4, mean_C, std_C, torch.Generator().manual_seed(0)).eval()
    source = images((8, 8, 8, 8), 2)
    options: dict[str, Any] = {
        "supernet": supernet.requires_grad_(False), "fitted": fitted, "validation": None,
        "class_counts_K": fitted.class_counts_K,
        "calibrations": {"source": Calibration.on(source.store.read(source.indices_N, torch.device("cpu")))},
        "heads": tuple(HEADS[name]() for name in ("ridge", "gda")), "objective": "balanced_accuracy",
        "batch_size": 512, "device": torch.device("cpu"),
    }  # fmt: skip
    return Scoring(**{**options, **changes})
