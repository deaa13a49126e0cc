"""An evaluation as tables for a terminal, and its sentences."""

from __future__ import annotations

import pandas as pd

from nasimb.deliver.evaluation import Evaluation, Judged
from nasimb.deliver.paired import SIGNIFICANT, Paired
from nasimb.report.show import stdout, terminal_table
from nasimb.visible import visible

PLAIN = ("mean_cost",)
"""Figures that are no share of anything."""


def show(found: Evaluation) -> None:
    """Tables and sentences on stdout."""
    for note in found.notes:
        print(visible(f"note: {note}"))
    title = f"{found.model.folder} on {len(found.labels_N):,} images of {found.data}"
    stdout().print(terminal_table(figures(found), title=title))
    stdout().print(terminal_table(classes(found), title="Classes"))
    if found.paired is not None:
        print(visible(verdict(found.paired)))


def figures(found: Evaluation) -> pd.DataFrame:
    """Every figure with its 95 % interval, in points where it is a share; of two models, also their difference."""
    rows = []
    for name in found.model.values:
        row = {"figure": name.replace("_", " "), "model": _cell(found.model, name)}
        if found.against is not None and found.paired is not None:
            row["against"] = _cell(found.against, name)
            difference = found.paired.differences.get(name)
            row["difference"] = "" if difference is None else _points(*difference, sign="+")
        rows.append(row)
    return pd.DataFrame(rows)


def classes(found: Evaluation) -> pd.DataFrame:
    """One row a class: recall with Wilson's interval, precision and F1 in points."""
    rows = []
    for row in found.rows():
        recall = "" if row.recall is None or row.interval is None else _points(row.recall, *row.interval)
        rows.append({
            "class": row.name, "trained on": row.trained_on, "images": row.images, "recall": recall,
            "precision": _point(row.precision), "F1": _point(row.f1), "most often taken for": row.taken_for or "",
        })  # fmt: skip
    return pd.DataFrame(rows)


def verdict(paired: Paired) -> str:
    """Which of the two is better, if one is."""
    counts = (
        f"both right on {paired.both:,} images, only the model on {paired.only_first:,}, only the other on "
        f"{paired.only_second:,}, neither on {paired.neither:,}"
    )
    if paired.mcnemar_p >= SIGNIFICANT:
        said = "The two do not differ significantly in accuracy"
    else:
        said = f"The {'model' if paired.only_first > paired.only_second else 'other'} is more accurate"
    low, high = paired.differences["balanced_accuracy"][1:]
    if low > 0 or high < 0:
        balanced = f"The {'model' if low > 0 else 'other'} has the higher balanced accuracy"
    else:
        balanced = "In balanced accuracy the interval of their difference includes 0"
    return f"{said} (McNemar's exact test, p = {paired.mcnemar_p:.2g}: {counts}). {balanced}."


def _cell(judged: Judged, name: str) -> str:
    value, interval = judged.values[name], judged.intervals.get(name)
    if value is None or interval is None:
        return ""
    return f"{value:.4g} [{interval[0]:.4g}, {interval[1]:.4g}]" if name in PLAIN else _points(value, *interval)


def _points(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def _point(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
