"""A subnet as a drawing: boxes and lines in numbers, which the template turns into SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasimb.report.figures import NORM_COLOURS

BLOCK, GAP, STAGE_GAP, TALLEST, TOP, LEFT = 26, 5, 34, 130, 58, 84
LEAST_STAGE = 104
"""So that what stands below a stage has room."""


@dataclass(frozen=True)
class Box:
    """A block: its place, its colour."""

    x: float
    y: float
    width: float
    height: float
    colour: str


@dataclass(frozen=True)
class Stage:
    """One stage: its blocks, the middle, what stands below it, and whether the head sees it."""

    boxes: tuple[Box, ...]
    middle: float
    words: tuple[str, ...]
    tapped: bool


@dataclass(frozen=True)
class Drawing:
    """All that the template needs; `head_x` is where the head begins."""

    width: float
    height: float
    axis_y: float
    resolution: int
    stages: tuple[Stage, ...]
    head_x: float
    head_words: tuple[str, ...]
    norms: tuple[tuple[str, str], ...]
    sentence: str


def drawing(entry: Mapping[str, Any], classes: int | None) -> Drawing:
    """The network of a winner or baseline as result.json describes it; boxes are as tall as they have channels."""
    subnet = entry["subnet"]
    norms = list(dict.fromkeys(subnet["norms"]))
    colours = {norm: NORM_COLOURS[place % len(NORM_COLOURS)] for place, norm in enumerate(norms)}
    axis_y, x, stages = TOP + TALLEST / 2, float(LEFT), []
    rows = list(zip(subnet["depths"], subnet["widths"], subnet["kernel_sizes"], subnet["norms"], strict=True))
    for place, (depth, width, kernel, norm) in enumerate(rows):
        taken = depth * BLOCK + (depth - 1) * GAP
        start = x + max(0.0, (LEAST_STAGE - taken) / 2)
        height = max(14.0, TALLEST * math.sqrt(width / max(subnet["widths"])))
        boxes = tuple(
            Box(start + number * (BLOCK + GAP), axis_y - height / 2, BLOCK, height, colours[norm])
            for number in range(depth)
        )
        blocks = f"{depth} block{'' if depth == 1 else 's'}"
        words = (f"stage {place + 1}: {blocks}", f"{width} channels", f"kernel {kernel}×{kernel}", str(norm))
        stages.append(Stage(boxes, start + taken / 2, words, place >= len(rows) - subnet["taps"]))
        x += max(taken, LEAST_STAGE) + STAGE_GAP
    features = sum(subnet["widths"][len(rows) - subnet["taps"] :])
    head_words = (str(entry["head"]), f"{features} features", *(() if classes is None else (f"{classes} classes",)))
    return Drawing(
        x + 150, TOP + TALLEST + 92, axis_y, subnet["resolution"], tuple(stages), x, head_words,
        tuple(colours.items()), _sentence(subnet, rows, head_words),
    )  # fmt: skip


def _sentence(subnet: Mapping[str, Any], rows: Sequence[tuple[Any, ...]], head: Sequence[str]) -> str:
    """The drawing in words, for those who do not see it."""
    stages = "; ".join(
        f"stage {place}: {depth} x {width} channels, kernel {kernel}, {norm}"
        for place, (depth, width, kernel, norm) in enumerate(rows, start=1)
    )
    size, taps = subnet["resolution"], subnet["taps"]
    seen = "the last stage" if taps == 1 else f"the last {taps} stages"
    return f"Images of {size} x {size} pixels; {stages}; the head ({', '.join(head)}) sees {seen}."
