"""Digits, and what is made of them: pairs of source and target of which it is known whether they are of one kind."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

from nasimb.data.base import ImageSet, LoadRequest, Parts
from nasimb.data.digits import DigitsSpec
from nasimb.data.store import TensorStore

SIZE = 32


@cache
def digits(*which: int, seed: int = 0) -> Parts:
    return DigitsSpec(digits=which or tuple(range(10)), parts_seed=seed).read(LoadRequest(size=SIZE))


def pixels(images: ImageSet) -> Tensor:
    return torch.cat([batch for batch, _ in images.batches(512, torch.device("cpu"))])


def made(pixels_NCHW: Tensor, labels_N: Tensor, classes: tuple[str, ...] | None = None) -> ImageSet:
    names = classes or tuple(str(k) for k in range(int(labels_N.max()) + 1))
    store = TensorStore(pixels_NCHW.contiguous(), [("made", len(pixels_NCHW))])
    return ImageSet(store, torch.arange(len(pixels_NCHW)), labels_N, names)


def inverted(images: ImageSet) -> ImageSet:
    return made(255 - pixels(images), images.labels_N)


def turned(images: ImageSet) -> ImageSet:
    return made(pixels(images).rot90(1, (2, 3)), images.labels_N)


def coloured(images: ImageSet, seed: int = 0) -> ImageSet:
    """Bright strokes of a random colour on a random background."""
    rng = np.random.default_rng(seed)
    shape = (len(images), 3, 1, 1)
    stroke, ground = torch.tensor(rng.uniform(0.3, 1.0, shape)), torch.tensor(rng.uniform(0.0, 0.7, shape))
    ink_N1HW = pixels(images).double() / 255
    return made((255 * (ink_N1HW * stroke + (1 - ink_N1HW) * ground)).round().byte(), images.labels_N)


def photo_patches() -> ImageSet:
    """Grey patches of scikit-learn's two sample photos, a class each."""
    patches, labels = [], []
    for label, photo in enumerate(load_sample_images().images):
        grey_HW = torch.tensor(photo).float().mean(2).byte()
        found = grey_HW.unfold(0, SIZE, SIZE).unfold(1, SIZE, SIZE).reshape(-1, 1, SIZE, SIZE)
        patches.append(found)
        labels += [label] * len(found)
    return made(torch.cat(patches), torch.tensor(labels), ("china", "flower"))


def long_tail(images: ImageSet, factor: float = 20.0) -> ImageSet:
    """The first images of every class, exponentially fewer from the first class to the last."""
    classes = images.num_classes
    positions = [
        (images.labels_N == k).nonzero().flatten()[: int(60 * factor ** (-k / (classes - 1)))] for k in range(classes)
    ]
    return images.subset(torch.cat(positions))
