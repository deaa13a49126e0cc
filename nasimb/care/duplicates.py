"""Near-duplicates: images that are not equal, but show the same picture.

Two images are near-duplicates if

1. neither is plain: the grey values of each, averaged to 16 x 16, have a standard deviation of at least 8 of 255;
2. those grey values correlate by at least 0.99, so that brightness, contrast, compression, size and colour do not
   matter, while a shift of a pixel or a mirrored copy is another picture;
3. neither has such a twin in more than 20 other images: what so many resemble is a kind of image (a bare sky, a blob),
   or a film. They are counted, not listed.

Equal images are none of these pairs: `nasimb.data.inspect` tells of them. An image that differs from its twin in no
more than its label is the worst of leaks across splits. At 0.99 unrelated images are seldom taken for twins: among 600
handwritten digits 1 pair, of 24,265 plankton images 0.4 % have one, of 6,000 of CIFAR-10 none.

Shapes: N images of all splits, B of a block of them, X = 256 pixels, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from nasimb.care.features import BATCH, CPU, luma
from nasimb.data.base import ImageSet

SIDE, LEAST_CONTRAST, LEAST_CORRELATION, MOST_TWINS = 16, 8.0, 0.99, 20
MOST_IMAGES = 100_000
"""Compared with each other. Time grows with the square: 30,000 took 17 s on one processor, so these three minutes."""
BLOCK_VALUES = 2**23


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """What was found.

    Attributes:
        pairs: a row a pair, across splits first, then most alike first: split_a, image_a, class_a, position_a, the
            same of b, correlation. Positions are those within the split.
        alike: images that resemble more than `MOST_TWINS` others.
        plain: images without contrast, which were not compared.
        left_out: images that were not compared because there are too many.
    """

    pairs: pd.DataFrame
    alike: int
    plain: int
    left_out: int

    @property
    def across(self) -> pd.DataFrame:
        """The pairs of two splits."""
        return self.pairs[self.pairs["split_a"] != self.pairs["split_b"]]


def near_duplicates(sets: Mapping[str, ImageSet]) -> NearDuplicates:
    """Within and across splits; see above.

    Args:
        sets: by name of the split. Of more than `MOST_IMAGES` together, evenly spread ones of each are compared.
    """
    total = sum(map(len, sets.values()))
    step = -(-total // MOST_IMAGES) or 1
    origins = [(name, position) for name, images in sets.items() for position in range(0, len(images), step)]
    hashes = [content for images in sets.values() for content in images.hashes()[::step]]
    greys_NX, contrast_N = _greys([images.subset(torch.arange(0, len(images), step)) for images in sets.values()])
    kept = (contrast_N >= LEAST_CONTRAST).nonzero().flatten()
    first_M, second_M, correlation_M, alike = _twins(greys_NX[kept], [hashes[n] for n in kept.tolist()])
    rows = []
    for first, second, correlation in zip(kept[first_M].tolist(), kept[second_M].tolist(), correlation_M, strict=True):
        row: dict[str, object] = {}
        for letter, place in (("a", origins[first]), ("b", origins[second])):
            name, position = place
            images = sets[name]
            row |= {
                f"split_{letter}": name,
                f"image_{letter}": images.name(position),
                f"class_{letter}": images.classes[int(images.labels_N[position])],
                f"position_{letter}": position,
            }
        rows.append({**row, "correlation": float(correlation)})
    return NearDuplicates(_ordered(rows), alike, len(greys_NX) - len(kept), total - len(origins))


def _greys(sets: list[ImageSet]) -> tuple[Tensor, Tensor]:
    """Grey values_NX of mean 0 and length 1, and their standard deviations_N before that, of 255."""
    found = [torch.zeros(0, SIDE**2)]
    for images in sets:
        for batch_BCHW, _ in images.batches(BATCH, CPU):
            found.append(F.adaptive_avg_pool2d(luma(batch_BCHW)[:, None], SIDE).flatten(1))
    values_NX = torch.cat(found)
    values_NX -= values_NX.mean(1, keepdim=True)
    return F.normalize(values_NX), values_NX.std(1, unbiased=False)


def _twins(greys_NX: Tensor, hashes: list[str]) -> tuple[Tensor, Tensor, Tensor, int]:
    """first_P < second_P, their correlations_P, and how many images have too many twins."""
    number = {content: place for place, content in enumerate(dict.fromkeys(hashes))}
    content_N = torch.tensor([number[content] for content in hashes], dtype=torch.int64)
    twins_N = torch.zeros(len(greys_NX), dtype=torch.int64)
    places, correlations = [torch.zeros(0, 2, dtype=torch.int64)], [torch.zeros(0)]
    rows = max(1, BLOCK_VALUES // max(1, len(greys_NX)))
    for start in range(0, len(greys_NX), rows):
        block_BN = greys_NX[start : start + rows] @ greys_NX.T
        found_P2 = (block_BN >= LEAST_CORRELATION).nonzero() + torch.tensor([start, 0])
        # Neither an image and itself, nor equal ones.
        found_P2 = found_P2[content_N[found_P2[:, 0]] != content_N[found_P2[:, 1]]]
        twins_N += torch.bincount(found_P2[:, 0], minlength=len(twins_N))
        found_P2 = found_P2[(twins_N[found_P2[:, 0]] <= MOST_TWINS) & (found_P2[:, 1] > found_P2[:, 0])]
        correlations.append(block_BN[found_P2[:, 0] - start, found_P2[:, 1]])
        places.append(found_P2)
    found_P2 = torch.cat(places)
    few_P = (twins_N[found_P2] <= MOST_TWINS).all(1)
    found_P2 = found_P2[few_P]
    return (
        found_P2[:, 0],
        found_P2[:, 1],
        torch.cat(correlations)[few_P].clamp(max=1.0),
        int((twins_N > MOST_TWINS).sum()),
    )


def _ordered(rows: list[dict[str, object]]) -> pd.DataFrame:
    columns = [f"{word}_{letter}" for letter in "ab" for word in ("split", "image", "class", "position")]
    table = pd.DataFrame(rows, columns=[*columns, "correlation"])
    within = table["split_a"] == table["split_b"]
    order = table.assign(within=within).sort_values(["within", "correlation"], ascending=[True, False], kind="stable")
    return order.drop(columns="within").reset_index(drop=True)
