"""Training images of every class as bars, in numbers that the template turns into SVG."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from nasimb.data.inspect import FEW_BELOW, MANY_ABOVE
from nasimb.report.figures import GROUP_COLOURS
from nasimb.visible import visible

WIDTH, LEFT, RIGHT, TOP = 760, 170, 80, 26
MOST_NAMED, MOST_LETTERS = 60, 22
NAMED_STEP, BARE_STEP = 20.0, 3.0
"""Height of a row: with a name that can be read, or with none where there are too many."""


@dataclass(frozen=True)
class Bar:
    """One class: `name` and `count` are empty where there are too many classes to be named."""

    y: float
    width: float
    height: float
    colour: str
    name: str
    count: str
    hover: str


@dataclass(frozen=True)
class Bars:
    """All that the template needs; `marks` are (x, what) of the lines that divide the groups."""

    width: int
    height: float
    left: int
    top: int
    bars: tuple[Bar, ...]
    marks: tuple[tuple[float, str], ...]
    groups: tuple[tuple[str, str], ...]


def bars_of(table: pd.DataFrame) -> Bars:
    """Classes with most training images first, coloured by group.

    Args:
        table: of `Inspection`.
    """
    rows = table.sort_values("train", ascending=False, kind="stable")
    counts = [int(count) for count in rows["train"]]
    most, step = max(1, *counts), NAMED_STEP if len(rows) <= MOST_NAMED else BARE_STEP
    scale = (WIDTH - LEFT - RIGHT) / most
    bars = []
    for place, (name, count, group) in enumerate(zip(rows["class"], counts, rows["group"], strict=True)):
        named = step == NAMED_STEP
        colour = "#8a8a8a" if pd.isna(group) else GROUP_COLOURS[group]
        text = visible(str(name))
        short = text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"
        bars.append(
            Bar(
                TOP + step * place, scale * count, 0.8 * step, colour, short if named else "",
                f"{count:,}" if named else "", f"{text}: {count:,}",
            )
        )  # fmt: skip
    marks = tuple((LEFT + scale * limit, str(limit)) for limit in (FEW_BELOW, MANY_ABOVE) if limit < most)
    groups = tuple((_group(rows, name), colour) for name, colour in GROUP_COLOURS.items())
    return Bars(WIDTH, TOP + step * len(rows) + 10, LEFT, TOP, tuple(bars), marks, groups)


def _group(rows: pd.DataFrame, name: str) -> str:
    own = rows[rows["group"] == name]
    classes = "1 class" if len(own) == 1 else f"{len(own):,} classes"
    images = int(own["train"].sum())
    return f"{name}-shot: {classes}, {images:,} image{'' if images == 1 else 's'}"
