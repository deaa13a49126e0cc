"""The embedded data: the handwritten digits that scikit-learn ships (1,797 images of 8x8, Alpaydin and Kaynak 1998).

They are the test part of UCI's Optical Recognition of Handwritten Digits, CC BY 4.0. They lie beside this file, because
importing scikit-learn takes longer than all else that a run on them has to read.

Three disjoint parts, drawn once and for all: a balanced source part, a pool for the long-tailed target, and a
balanced test part. The originals are in order of writer, so each class is shuffled before it is divided.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from nasimb.data.base import DatasetSpec, LoadRequest, Parts, make_parts
from nasimb.data.resize import convert_channels, resize
from nasimb.data.store import TensorStore
from nasimb.errors import InputError

FILE = Path(__file__).with_suffix(".npz")
BRIGHTEST = 16  # the originals count inked pixels in cells of 4x4
SMALLEST_CLASS = 174  # images of the digit 8, the rarest


class DigitsSpec(DatasetSpec):
    """Handwritten digits, grey.

    Attributes:
        digits: which classes; `digits:0-4` on the command line.
        source_per_class: images for a super-network, per class.
        target_per_class: images a long tail is made from, per class.
        test_per_class: images of the test split, per class.
        parts_seed: which images fall into which part.
    """

    name: Literal["digits"] = "digits"
    flip: bool = False
    digits: Annotated[tuple[Annotated[int, Field(ge=0, le=9)], ...], Field(min_length=2)] = tuple(range(10))
    source_per_class: Annotated[int, Field(ge=0)] = 54
    target_per_class: Annotated[int, Field(ge=1)] = 60
    test_per_class: Annotated[int, Field(ge=1)] = 60
    parts_seed: Annotated[int, Field(ge=0)] = 0

    default_imbalance_factor: ClassVar[float | None] = 20.0

    @model_validator(mode="after")
    def _parts_fit(self) -> DigitsSpec:
        wanted = self.source_per_class + self.target_per_class + self.test_per_class
        if wanted > SMALLEST_CLASS:
            raise ValueError(f"the three parts must take at most {SMALLEST_CLASS} images a class, not {wanted}")
        return self

    @property
    def has_source(self) -> bool:
        """Yes, unless no image is left for it."""
        return self.source_per_class > 0

    def read(self, request: LoadRequest) -> Parts:
        """All three parts over one store of all 1,797 images."""
        with np.load(FILE) as found:
            originals_NSS, digits_N = found["images_NSS"], found["digits_N"].astype(np.int64)
        pixels = torch.from_numpy(originals_NSS * (255 / BRIGHTEST))[:, None]
        images_NCHW = convert_channels(resize(pixels.float(), request.size), request.channels or 1)
        classes = sorted(set(self.digits))
        return make_parts(
            TensorStore(images_NCHW.to(request.device), [("digits", len(images_NCHW))]),
            self._splits(digits_N),
            np.searchsorted(classes, digits_N).tolist(),
            tuple(map(str, classes)),
        )

    def _splits(self, digits_N: np.ndarray) -> list[str]:
        """The part of every image; what is left over belongs to none."""
        sizes = {"test": self.test_per_class, "source": self.source_per_class, "train": self.target_per_class}
        splits = np.full(len(digits_N), "", dtype="<U6")
        for digit in self.digits:
            shuffled = np.random.default_rng([self.parts_seed, digit]).permutation(np.flatnonzero(digits_N == digit))
            start = 0
            for split, size in sizes.items():
                splits[shuffled[start : start + size]] = split
                start += size
        return [str(split) for split in splits]


def parse_digits(text: str) -> tuple[int, ...]:
    """`0-4` or `1,3,5-7` as digits in ascending order.

    Raises:
        InputError: anything else.
    """
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        high = high if dash else low
        if not (low.isdecimal() and high.isdecimal()):
            raise InputError("the digits must be a list or a range", got=repr(text), do="Write digits:0-4, say.")
        found.update(range(int(low), int(high) + 1))
    return tuple(sorted(found))
