"""Charts over time as SVG, from numbers alone; whatever is text is escaped by the template.

Shapes: T points in time, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nasimb.onsite.records import Alarm, Record
from nasimb.visible import visible

Floats = NDArray[np.float64]

WIDTH, LEFT, RIGHT, PANEL, GAP, TOP = 920, 64, 190, 130, 46, 34
MOST_POINTS, MOST_CLASSES = 400, 9
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#6b6ecf", "#a3be3c", "#999999")
INK, GREY, RED = "#0072b2", "#999999", "#c0392b"


@dataclass(frozen=True)
class Shape:
    """A line (`points`), an area (closed), or with one point a dot."""

    kind: str
    points: str
    colour: str


@dataclass(frozen=True)
class Panel:
    """One chart: where it begins, what stands at its axis, what is drawn, what the colours mean."""

    title: str
    top: float
    ticks: tuple[tuple[float, str], ...]
    shapes: tuple[Shape, ...]
    legend: tuple[tuple[float, str, str], ...] = field(default=())


@dataclass(frozen=True)
class Picture:
    """All that the template `picture.svg.j2` needs."""

    title: str
    width: int
    height: float
    left: int
    right: int
    panel_height: int
    panels: tuple[Panel, ...]
    times: tuple[tuple[float, str], ...]


def picture_of(records: Sequence[Record], classes: tuple[str, ...], title: str) -> Picture:
    """Shift, class mix, what changed and what was right, and alarms, one panel each.

    Many batches are drawn in groups of equally many: means, of shifts the largest.
    """
    size = -(-len(records) // MOST_POINTS) or 1
    groups = [records[start : start + size] for start in range(0, len(records), size)]
    ends = np.cumsum([sum(record.images for record in group) for group in groups]).astype(float)
    x_T = LEFT + (WIDTH - LEFT - RIGHT) * (ends / ends[-1] if len(groups) else ends)
    made, top = [], float(TOP)
    for build in (_shifts, _mix, _right, _alarm_panel) if groups else ():
        made.append(build(groups, x_T, top, classes))
        top += PANEL + GAP
    times = _times(float(ends[-1])) if len(groups) else ()
    return Picture(title, WIDTH, top + 24, LEFT, WIDTH - RIGHT, PANEL, tuple(made), times)


def _shifts(groups: list[Sequence[Record]], x_T: Floats, top: float, classes: tuple[str, ...]) -> Panel:
    shift_T = np.array([np.max([record.shift for record in group]) for group in groups])
    known = [[record.noise for record in group if record.noise is not None] for group in groups]
    noise_T = np.array([np.mean(noises) if noises else 0.0 for noises in known])
    adapted_T = np.array([any(record.adapted for record in group) for group in groups])
    most = _round_above(np.concatenate([shift_T, noise_T]))
    # No number is as far as can be; what else is told of the stream is drawn all the same.
    shift_T, noise_T = (np.nan_to_num(values_T, nan=most, posinf=most) for values_T in (shift_T, noise_T))
    y_T = _down(shift_T, most, top)
    shapes = [
        Shape("line", _line(x_T, y_T), INK),
        *(Shape("dot", _line(x_T[[t]], y_T[[t]]), COLOURS[2]) for t in np.flatnonzero(adapted_T)),
    ]
    if len(groups) == 1 and not adapted_T.any():  # a line of one point is not seen
        shapes.append(Shape("dot", _line(x_T, y_T), INK))
    entries = [("shift", INK)]
    if any(known):
        noise = Shape("area", _area(x_T, _down(noise_T, most, top), np.full(len(x_T), top + PANEL)), "#dddddd")
        shapes, entries = [noise, *shapes], [*entries, ("noise of so few images", "#dddddd")]
    if adapted_T.any():
        entries.append(("adapted to", COLOURS[2]))
    title = "Shift from training (standard deviations)"
    return Panel(title, top, _ticks(most, top, "{:.2g}"), tuple(shapes), _legend(top, entries))


def _mix(groups: list[Sequence[Record]], x_T: Floats, top: float, classes: tuple[str, ...]) -> Panel:
    mix_TK = np.array([np.mean([record.mix_K for record in group], axis=0) for group in groups])
    shown = np.argsort(-mix_TK.mean(0), kind="stable")[:MOST_CLASSES]
    shown = np.sort(shown) if len(classes) > MOST_CLASSES + 1 else np.arange(len(classes))
    names = [classes[k] for k in shown]
    parts = [mix_TK[:, k] for k in shown]
    if len(shown) < len(classes):
        names, parts = [*names, f"{len(classes) - len(shown)} others"], [*parts, 1 - np.sum(parts, axis=0)]
    shapes, below = [], np.zeros(len(x_T))
    for k, part in enumerate(parts):
        above = below + part
        points = _area(x_T, _down(above, 1.0, top), _down(below, 1.0, top))
        shapes.append(Shape("area", points, COLOURS[k % len(COLOURS)]))
        below = above
    legend = _legend(top, [(name, COLOURS[k % len(COLOURS)]) for k, name in enumerate(names)])
    return Panel("Predicted class mix", top, _ticks(1.0, top, "{:.0%}"), tuple(shapes), legend)


def _right(groups: list[Sequence[Record]], x_T: Floats, top: float, classes: tuple[str, ...]) -> Panel:
    lines = {
        "changed by adapting": ([_mean(group, "flips", "images") for group in groups], INK),
        "accuracy": ([_mean(group, "accuracy", "labelled") for group in groups], COLOURS[2]),
        "few-shot recall": ([_mean(group, "few", "few_images") for group in groups], COLOURS[5]),
    }
    shapes, legend = [], []
    for label, (values, colour) in lines.items():
        known = [t for t, value in enumerate(values) if value is not None]
        if known:
            y_T = _down(np.array([values[t] for t in known], dtype=float), 1.0, top)
            shapes.append(Shape("line", _line(x_T[known], y_T), colour))
            shapes += [Shape("dot", _line(x_T[[t]], y_T[[i]]), colour) for i, t in enumerate(known)]
            legend.append((label, colour))
    return Panel("Share of images", top, _ticks(1.0, top, "{:.0%}"), tuple(shapes), _legend(top, legend))


def _alarm_panel(groups: list[Sequence[Record]], x_T: Floats, top: float, classes: tuple[str, ...]) -> Panel:
    kinds = list(Alarm)
    rows = {kind: top + PANEL * (row + 0.5) / len(kinds) for row, kind in enumerate(kinds)}
    shapes = [
        Shape("dot", _line(x_T[[t]], np.array([rows[kind]])), RED)
        for t, group in enumerate(groups)
        for kind in kinds
        if any(kind in record.alarms for record in group)
    ]
    title = "Alarms" if shapes else "Alarms: none"
    return Panel(title, top, (), tuple(shapes), tuple((y, kind.value, "none") for kind, y in rows.items()))


def _mean(group: Sequence[Record], name: str, weight: str) -> float | None:
    """Over the images that it is known of."""
    known = [(getattr(record, name), getattr(record, weight)) for record in group if getattr(record, name) is not None]
    return sum(value * count for value, count in known) / sum(count for _, count in known) if known else None


def _down(values_T: Floats, most: float, top: float) -> Floats:
    """Values from 0 to `most` as heights on the page."""
    return top + PANEL * (1 - np.asarray(values_T, dtype=float) / most)


def _line(x_T: Floats, y_T: Floats) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(x_T, y_T, strict=True))


def _area(x_T: Floats, above_T: Floats, below_T: Floats) -> str:
    """From the left edge on, so that the first group has a width too."""
    x_T = np.concatenate([[LEFT], x_T])
    above_T, below_T = np.concatenate([above_T[:1], above_T]), np.concatenate([below_T[:1], below_T])
    return f"{_line(x_T, above_T)} {_line(x_T[::-1], below_T[::-1])}"


def _round_above(values_X: Floats) -> float:
    """The next figure above all that are finite (1 if none is) that ticks show exactly, halved too."""
    value = max(values_X[np.isfinite(values_X)].tolist(), default=1.0)
    unit = 10.0 ** math.floor(math.log10(max(value, 1e-6)))
    return unit * min(step for step in (1, 2, 3, 4, 6, 8, 10) if step * unit > value)


def _ticks(most: float, top: float, form: str) -> tuple[tuple[float, str], ...]:
    return tuple((float(_down(np.array(value), most, top)), form.format(value)) for value in (0.0, most / 2, most))


def _legend(top: float, entries: Sequence[tuple[str, str]]) -> tuple[tuple[float, str, str], ...]:
    step = min(16.0, (PANEL + GAP - 10) / max(1, len(entries)))
    return tuple((top + 6 + step * row, _short(label), colour) for row, (label, colour) in enumerate(entries))


def _short(label: str) -> str:
    label = visible(label)
    return label if len(label) <= 24 else label[:23] + "…"


def _times(images: float) -> tuple[tuple[float, str], ...]:
    """At whole images, about a quarter apart."""
    marks = sorted({round(images * share) for share in (0, 0.25, 0.5, 0.75, 1)})
    return tuple((LEFT + (WIDTH - LEFT - RIGHT) * mark / images, f"{mark:,}") for mark in marks)
