"""The images of a new site, as a finished model takes them, with the labels that it can know.

Shapes: N images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasimb.data import parse_dataset
from nasimb.data.base import DatasetSpec, ImageSet, LoadRequest, Parts, first_of, make_parts
from nasimb.data.files import load_files
from nasimb.data.folder import LITTER, FolderSpec
from nasimb.errors import DataError
from nasimb.export import Model
from nasimb.onsite.orders import Order as Order

UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class Site:
    """Images in the order in which they are shown to the model.

    Attributes:
        images: their own labels and classes are those of the data.
        labels_N: in the model's numbering; -1 where there is none that the model knows.
        notes: sentences on what was done to the data.
    """

    images: ImageSet
    labels_N: Tensor
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labelled_M(self) -> Tensor:
        """Positions of the images with a label."""
        return (self.labels_N != UNLABELLED).nonzero().flatten()


def load_site(
    data: str | Mapping[str, Any],
    model: Model,
    *,
    order: Order = Order.auto,
    seed: int = 0,
    device: torch.device,
    skip_bad_images: bool = False,
) -> Site:
    """Read images at the size and in the channels of the model.

    Of data with a test split that is taken, else their training images. A label that is the name of a class of the
    model is one; any other (a folder `unlabelled`, a `?` in a list) leaves its image unlabelled. A folder without
    folders inside holds unlabelled images.

    Args:
        data: as `parse_dataset` takes it.
        order: auto is shuffled for a folder of class folders, in which one class would come after the other only
            because of where its files lie, and as given for everything else.
        seed: of the shuffle.

    Raises:
        DataError: the data cannot be read, or hold no image.
    """
    spec = parse_dataset(data)
    request = LoadRequest(
        size=model.description.size, channels=model.description.channels, device=device, skip_bad_images=skip_bad_images
    )
    loose = _loose_files(spec)
    parts = _unlabelled(loose, request) if loose else spec.read(request)
    images, notes = (parts.train, []) if parts.test is None else (parts.test, ["Of the data the test split is taken."])
    if not len(images):
        raise DataError("the data must hold images", got=f"none in {data}", do="Check the path.")
    if parts.skipped:
        count = len(parts.skipped)
        left_out = f"{count:,} files could not be read and were" if count > 1 else "1 file could not be read and was"
        notes.append(f"{left_out} left out: {first_of(parts.skipped)}.")
    if order is Order.shuffled or (order is Order.auto and isinstance(spec, FolderSpec) and not loose):
        shuffle_N = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        images = images.subset(shuffle_N)
        notes.append(f"The images come in shuffled order (seed {seed}).")
    labels_N = known_labels(images, model.classes)
    return Site(images, labels_N, (*notes, *_label_notes(images, labels_N)))


def known_labels(images: ImageSet, classes: tuple[str, ...]) -> Tensor:
    """Labels in the numbering of `classes`, by name; -1 for the others."""
    number = {name: k for k, name in enumerate(classes)}
    known_K = torch.tensor([number.get(name, UNLABELLED) for name in images.classes], dtype=torch.int64)
    return known_K[images.labels_N]


def _label_notes(images: ImageSet, labels_N: Tensor) -> list[str]:
    unknown_M = (labels_N == UNLABELLED).nonzero().flatten()
    if images.classes == ("",):
        return ["The images have no labels."]
    if not len(unknown_M):
        return []
    names = [repr(images.classes[k]) for k in sorted(set(images.labels_N[unknown_M].tolist()))]
    unlabelled = f"{len(unknown_M)} of {len(labels_N)} images count as unlabelled"
    return [f"{unlabelled}: the model has no class {first_of(names)}."]


def _loose_files(spec: DatasetSpec) -> list[Path]:
    """The files of a folder that has no folders inside; none for anything else."""
    if not (isinstance(spec, FolderSpec) and spec.path.is_dir()):
        return []
    entries = [
        entry
        for entry in sorted(spec.path.iterdir())
        if not entry.name.startswith(".") and entry.name.lower() not in LITTER
    ]
    return [] if any(entry.is_dir() for entry in entries) else entries


def _unlabelled(files: list[Path], request: LoadRequest) -> Parts:
    loaded = load_files(files, request)
    count = len(loaded.kept)
    return replace(make_parts(loaded.store, ["train"] * count, [0] * count, ("",)), skipped=loaded.skipped)
