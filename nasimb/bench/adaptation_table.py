"""What the rows of the adaptation benchmark say: a table, and figures with targets.

All differences are in points of accuracy, and of means over the seeds; quartiles are of the seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from nasimb.bench.base import Figure, Skipped, spread
from nasimb.bench.rows import Rows

CELL = ["corruption", "severity", "stream", "batch_size"]
SCORES = ("accuracy", "balanced_accuracy", "many", "medium", "few")
WORST_CELL, WORST_STREAM = -0.5, -1.0
"""Points that the default may lie below the better of source and batch, and on a misleading stream below source."""


def long_table(rows: Rows) -> pd.DataFrame:
    """A row a seed, cell and strategy; scores are fractions, NaN for a group without classes."""
    texts = {name: rows.texts(name) for name in ("corruption", "stream", "strategy")}
    numbers = {name: rows.numbers(name) for name in (*SCORES, "seed", "severity", "batch_size", "images")}
    return pd.DataFrame({**texts, **numbers}).astype({"seed": int, "severity": int, "batch_size": int, "images": int})


def table(rows: Rows) -> pd.DataFrame:
    """A row a cell and strategy: every score's mean over the seeds, the standard deviation of accuracy, and seeds."""
    grouped = long_table(rows).groupby([*CELL, "strategy"], sort=True)
    found = grouped[list(SCORES)].mean()
    found.insert(1, "accuracy_sd", grouped["accuracy"].std())
    found["seeds"] = grouped["seed"].nunique()
    return found.reset_index()


def figures(rows: Rows) -> Iterator[Figure]:
    """Of the seeds whose cells are all there, which are all of them once the benchmark is through.

    Raises:
        Skipped: of no seed are all cells there.
    """
    source, batch, mixed = (accuracies(rows, strategy) for strategy in ("source", "batch", "mixed"))
    if not mixed.shape[1]:
        raise Skipped("No seed has been measured in every cell.")
    by = mixed.index.to_frame()
    iid, corrupted = by["stream"] == "iid", by["severity"] > 0
    yield _worst(
        "adaptation_worst_cell", (mixed - better(source, batch))[iid & corrupted], WORST_CELL,
        "mixed - the better of source and batch, i.i.d. corrupted images, worst cell",
    )  # fmt: skip
    yield _worst(
        "adaptation_worst_clean", (mixed - source)[iid & ~corrupted], WORST_STREAM,
        "mixed - source, i.i.d. images as they are, worst batch size",
    )  # fmt: skip
    lost = (batch - source)[~iid].mean(axis=1)
    yield _worst(
        "adaptation_worst_stream", (mixed - source)[~iid], WORST_STREAM,
        "mixed - source, class-correlated and long-tailed streams, worst cell",
        {"batch_worst": float(lost.min()), "batch_mean": float(lost.mean())},
    )  # fmt: skip
    yield _mean("adaptation_gain", mixed - source, batch - source, iid & corrupted, "corruption",
                "mixed - source, i.i.d. corrupted images, mean over cells")  # fmt: skip
    yield _mean("adaptation_stream_gain", mixed - source, batch - source, ~iid, "stream",
                "mixed - source, class-correlated and long-tailed streams, mean over cells")  # fmt: skip


def accuracies(rows: Rows, strategy: str) -> pd.DataFrame:
    """Percent, a row a cell and a column a seed; seeds with a cell missing are left out."""
    frame = long_table(rows)
    whole = frame.pivot(index=["strategy", *CELL], columns="seed", values="accuracy").dropna(axis=1)
    return 100 * whole[whole.index.get_level_values("strategy") == strategy].droplevel("strategy")


def better(source: pd.DataFrame, batch: pd.DataFrame) -> pd.DataFrame:
    """In every cell whichever of the two is better on average over the seeds.

    Not the better one of each seed, which would add to the bar whatever luck there is.
    """
    return source.where(source.mean(axis=1) >= batch.mean(axis=1), batch, axis=0)


def _worst(
    name: str, differences: pd.DataFrame, at_least: float, against: str, detail: Mapping[str, float] | None = None
) -> Figure:
    """The cell whose mean over the seeds is lowest, with the quartiles of its seeds."""
    ranked = differences.mean(axis=1).sort_values()
    of_seeds = differences.loc[ranked.index[0]]
    found = spread(of_seeds.tolist())
    return Figure(
        name, float(ranked.iloc[0]), f"{against}; mean of seeds", unit="points", at_least=at_least, low=found.low,
        high=found.high, repetitions=len(of_seeds),
        detail={
            "cell": " ".join(map(str, ranked.index[0])), "cells": len(ranked),
            "cells_below_target": int((ranked < at_least).sum()), "second": float(ranked.iloc[:2].iloc[-1]),
            **(detail or {}),
        },
    )  # fmt: skip


def _mean(name: str, mixed: pd.DataFrame, batch: pd.DataFrame, cells: pd.Series[bool], by: str, against: str) -> Figure:
    """Mean over these cells, with the quartiles of the seeds; in detail for every value of `by`, batch's beside."""
    found = spread(mixed[cells].mean().tolist())
    detail = {"batch": float(batch[cells].to_numpy().mean())}
    for strategy, gains in (("mixed", mixed), ("batch", batch)):
        of_values = gains[cells].groupby(by).mean().mean(axis=1)
        detail |= {f"{value}_{strategy}": float(gain) for value, gain in of_values.items()}
    return Figure(
        name, float(mixed[cells].to_numpy().mean()), f"{against}; mean of seeds", unit="points", low=found.low,
        high=found.high, repetitions=mixed.shape[1], detail=detail,
    )  # fmt: skip
