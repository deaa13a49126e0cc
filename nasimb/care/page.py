"""What `nasimb data inspect` found as one HTML file that loads nothing from elsewhere and runs no script.

Names of classes and files are text to the template, never markup.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from nasimb.care.duplicates import LEAST_CORRELATION, SIDE
from nasimb.care.labels import MOST_SHOWN
from nasimb.care.look import CloserLook
from nasimb.care.picture import bars_of
from nasimb.data.base import ImageSet
from nasimb.data.decode import UnreadableImage, decode
from nasimb.durable import replace_whole
from nasimb.report.markup import environment

SHOWN_SIZE = 96
"""Pixels a side of a picture on the page whose file can be read again; others are shown as they were read."""
MOST_PAIRS, MOST_ROWS = 10, 500


@dataclass(frozen=True)
class Picture:
    """One picture with its words; `png` is base64."""

    png: str
    name: str
    words: str


def write_page(found: CloserLook, file: Path, *, title: str) -> None:
    """Write the page whole or not at all."""
    replace_whole(file, page(found, title=title).encode())


def page(found: CloserLook, *, title: str) -> str:
    """The whole page."""
    near, errors = found.near, found.labels
    return (
        environment("nasimb.care")
        .get_template("inspect.html.j2")
        .render(
            title=f"nasimb data inspect {title}",
            found=found,
            lines=found.lines(),
            bars=bars_of(found.inspection.table) if len(found.inspection.table) else None,
            most_shown=MOST_SHOWN,
            most_pairs=MOST_PAIRS,
            most_rows=MOST_ROWS,
            side=SIDE,
            least_correlation=LEAST_CORRELATION,
            suspects=[] if errors is None else _suspects(found.sets["train"], errors.ranked),
            pairs=[] if near is None else _pairs(found.sets, near.pairs),
            pair_table=None if near is None else _pair_table(near.pairs),
        )
    )


def _suspects(train: ImageSet, ranked: pd.DataFrame) -> list[Picture]:
    """The contact sheet: the suspected ones in their order."""
    shown = ranked[ranked["suspected"]].head(MOST_SHOWN)
    return [
        Picture(_png(train, row["position"]), row["image"], f"labelled {row['label']}, looks like {row['guess']}")
        for row in shown.to_dict("records")
    ]


def _pairs(sets: Mapping[str, ImageSet], pairs: pd.DataFrame) -> list[tuple[Picture, Picture]]:
    return [(_of_pair(sets, row, "a"), _of_pair(sets, row, "b")) for row in pairs.head(MOST_PAIRS).to_dict("records")]


def _of_pair(sets: Mapping[str, ImageSet], row: Mapping[object, object], letter: str) -> Picture:
    split, position = str(row[f"split_{letter}"]), int(str(row[f"position_{letter}"]))
    words = f"{split}, {row[f'class_{letter}']}"
    return Picture(_png(sets[split], position), str(row[f"image_{letter}"]), words)


def _pair_table(pairs: pd.DataFrame) -> pd.DataFrame:
    return pairs.drop(columns=["position_a", "position_b"]).head(MOST_ROWS)


def _png(images: ImageSet, position: int) -> str:
    """base64 of the picture, of its file where it has one."""
    path = Path(images.name(position))
    try:
        pixels_CHW = decode(path, SHOWN_SIZE, images.channels)
    except (UnreadableImage, OSError):
        index = images.indices_N[torch.tensor([position])]
        pixels_CHW = images.store.read(index, torch.device("cpu"))[0].numpy()
    pixels = np.moveaxis(pixels_CHW, 0, -1)
    written = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()
