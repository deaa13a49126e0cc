"""Pairs of source and target that had no say in the gap's limits: 8 of digits, 8 of CIFAR and plankton."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from care.pairs import digits, made, pixels
from nasimb.data import parse_dataset
from nasimb.data.base import ImageSet, LoadRequest
from nasimb.data.corruptions import corrupt

Sides = tuple[ImageSet, ImageSet, ImageSet]
"""Source, target, and test images of the target."""
Change = Callable[[Tensor], Tensor]

SOURCE, TARGET, TEST = 4000, 2000, 1000
"""Images drawn of real data, at most."""


def corrupted(kind: str, severity: int) -> Change:
    return lambda images_NCHW: corrupt(images_NCHW, kind, severity)


def small_in_a_corner(images_NCHW: Tensor) -> Tensor:
    return F.pad(F.avg_pool2d(images_NCHW.float(), 2).round().byte(), (0, 16, 0, 16))


def changed(images: ImageSet, change: Change | None) -> ImageSet:
    return images if change is None else made(change(pixels(images)), images.labels_N, images.classes)


def of_digits(change: Change | None, own: Iterable[int] = range(10), others: Iterable[int] = range(10)) -> Sides:
    target = digits(*others)
    assert target.test is not None
    source = digits(*own).source
    assert source is not None
    return source, changed(target.train, change), changed(target.test, change)


def real(name: str, split: str, classes: Iterable[int] | None = None, *, most: int = TARGET, skip: int = 0) -> ImageSet:
    """Evenly many images of every class, which are numbered anew; `skip` leaves those of another draw out."""
    parts = parse_dataset(str(Path(os.environ["NASIMB_DATA"]) / f"{name}.npz")).read(LoadRequest(size=32))
    images = parts.train if split == "train" else parts.test
    assert images is not None
    wanted = list(range(images.num_classes)) if classes is None else list(classes)
    each, order_N = most // len(wanted), torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    kept, labels = [], []
    for label, k in enumerate(wanted):
        own = order_N[images.labels_N[order_N] == k][skip : skip + each]
        kept.append(own)
        labels.append(torch.full((len(own),), label))
    positions = torch.cat(kept)
    names = tuple(images.classes[k] for k in wanted)
    return ImageSet(images.store, images.indices_N[positions], torch.cat(labels), names)


def of_real(
    source: tuple[str, Iterable[int] | None], target: tuple[str, Iterable[int] | None], change: Change | None = None
) -> Sides:
    name, classes = target
    skip = SOURCE // 10 if source == target else 0  # never the same images on both sides
    return (
        real(source[0], "train", source[1], most=SOURCE),
        changed(real(name, "train", classes, skip=skip), change),
        changed(real(name, "test", classes, most=TEST), change),
    )


def from_real_to_digits(name: str) -> Sides:
    target = digits()
    assert target.test is not None
    classes = commonest()[:20] if name == "plankton32" else None
    return real(name, "train", classes, most=SOURCE), target.train, target.test


def commonest() -> list[int]:
    labels = np.load(Path(os.environ["NASIMB_DATA"]) / "plankton32.npz")["train_labels"]
    return np.argsort(-np.bincount(labels), kind="stable")[:40].tolist()


CIFAR = ("cifar10", None)
DIGITS: dict[str, Callable[[], Sides]] = {
    "noise": lambda: of_digits(corrupted("noise", 5)),
    "blur": lambda: of_digits(corrupted("blur", 5)),
    "fog": lambda: of_digits(corrupted("fog", 5)),
    "little contrast": lambda: of_digits(corrupted("contrast", 5)),
    "upside down": lambda: of_digits(lambda x: x.flip(2)),
    "moved by 6 pixels": lambda: of_digits(lambda x: x.roll(6, 3)),
    "small, in a corner": lambda: of_digits(small_in_a_corner),
    "7 to 9 after 0 to 6": lambda: of_digits(None, range(7), (7, 8, 9)),
}
REAL: dict[str, Callable[[], Sides]] = {
    "CIFAR-10 in fog": lambda: of_real(CIFAR, CIFAR, corrupted("fog", 5)),
    "CIFAR-10 upside down": lambda: of_real(CIFAR, CIFAR, lambda x: x.flip(2)),
    "CIFAR-10 with colours swapped": lambda: of_real(CIFAR, CIFAR, lambda x: x[:, [2, 0, 1]]),
    "CIFAR-10 in noise": lambda: of_real(CIFAR, CIFAR, corrupted("noise", 5)),
    "CIFAR-100, last 20 after first 20": lambda: of_real(("cifar100", range(20)), ("cifar100", range(80, 100))),
    "digits after CIFAR-10": lambda: from_real_to_digits("cifar10"),
    "digits after plankton": lambda: from_real_to_digits("plankton32"),
    "plankton, next 20 after commonest 20": lambda: of_real(
        ("plankton32", commonest()[:20]), ("plankton32", commonest()[20:])
    ),
}
