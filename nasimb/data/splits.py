"""Dividing images without letting any of them stand on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from nasimb.data.base import ImageSet
from nasimb.errors import DataError, InputError

# Known sets repeat a few images between their official splits (CIFAR-100: 10 of 10,000). Up to this share of the
# smaller set such images are left out of training and counted; more is a mistake in the data. Heuristic.
TOLERATED_SHARE = 0.01


def stratified_split(labels_N: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions (kept, held out), each ascending.

    From every class with at least two images, `fraction` of them (rounded, at least one) is held out and at least one
    kept; a class with a single image keeps it.

    Raises:
        InputError: a fraction outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise InputError("the fraction held out must lie between 0 and 1", got=fraction, do="Use 0.2, say.")
    labels = labels_N.numpy()
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        shuffled = np.random.default_rng([seed, int(label)]).permutation(np.flatnonzero(labels == label))
        count = min(len(shuffled) - 1, max(1, int(len(shuffled) * fraction + 0.5)))
        held[shuffled[:count]] = True
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


def split_images(image_set: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet, int]:
    """(kept, held out, copies left out): a stratified split in which repeats of an image are never on both sides.

    Only the first copy of an image can be held out; when it is, its other copies are left out altogether.
    """
    hashes = image_set.hashes()
    first: dict[str, int] = {}
    for position, content in enumerate(hashes):
        first.setdefault(content, position)
    distinct = torch.tensor(list(first.values()), dtype=torch.int64)
    _, held = stratified_split(image_set.labels_N[distinct], fraction, seed)
    held_out = image_set.subset(distinct[held])
    kept = without(image_set, set(held_out.hashes()))
    return kept, held_out, len(image_set) - len(kept) - len(held_out)


def without(image_set: ImageSet, hashes: set[str]) -> ImageSet:
    """The images of the set whose content is not among `hashes`."""
    kept = [position for position, content in enumerate(image_set.hashes()) if content not in hashes]
    return image_set if len(kept) == len(image_set) else image_set.subset(torch.tensor(kept, dtype=torch.int64))


def check_disjoint(sets: Mapping[str, ImageSet]) -> None:
    """Raise DataError if two of the sets share an image, by content."""
    for (name_a, set_a), (name_b, set_b) in combinations(sets.items(), 2):
        if shared := _shared(set_a, set_b):
            raise _leak(name_a, name_b, shared)


def remove_shared(sets: Mapping[str, ImageSet]) -> tuple[dict[str, ImageSet], list[str]]:
    """The sets without shared images, and a sentence for each pair that shared some.

    Args:
        sets: by name, the most precious last (source, target, test): of two sets the earlier one gives way.

    Raises:
        DataError: the very same stored image is in two sets, or more than `TOLERATED_SHARE` of the smaller set is
            shared by content.
    """
    found, notes = dict(sets), []
    for name_a, name_b in combinations(sets, 2):
        shared = _shared(found[name_a], found[name_b])
        if not shared:
            continue
        same_image = any(name == other for name, other in shared)
        if same_image or len(shared) > TOLERATED_SHARE * min(len(sets[name_a]), len(sets[name_b])):
            raise _leak(name_a, name_b, shared)
        found[name_a] = without(found[name_a], set(found[name_b].hashes()))
        example = f"{shared[0][0]} and {shared[0][1]}"
        notes.append(f"Left out of {name_a} because also in {name_b}: {len(shared)} (first: {example}).")
    return found, notes


def _shared(set_a: ImageSet, set_b: ImageSet) -> list[tuple[str, str]]:
    """Names (in a, in b) of every image of a whose content is in b; the same stored image is listed first."""
    positions_b: dict[str, int] = {}
    for position, content in enumerate(set_b.hashes()):
        positions_b.setdefault(content, position)
    pairs = [
        (set_a.name(position), set_b.name(positions_b[content]))
        for position, content in enumerate(set_a.hashes())
        if content in positions_b
    ]
    return sorted(pairs, key=lambda pair: pair[0] != pair[1])


def _leak(name_a: str, name_b: str, shared: list[tuple[str, str]]) -> DataError:
    in_a, in_b = shared[0]
    example = in_a if in_a == in_b else f"{in_a} equals {in_b}"
    do = f"Take them out of {name_a}"
    if (name_a, name_b) == ("source", "target"):
        do += ", or train on the target itself with --source target"
    got = f"{len(shared)} shared, such as {example}"
    return DataError(f"{name_a} and {name_b} must not share an image", got=got, do=f"{do}.")
