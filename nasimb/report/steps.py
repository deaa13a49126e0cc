"""What each step bought on the test split: reweighting, normalisation, search; with paired intervals.

A chain of models that differ in one step each: the largest subnet with an unweighted head; the same with the best head;
the same with the winner's norms and calibration; the winner. All of them saw the same test images, so differences are
paired: images are resampled within their class, and both models are asked about the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nasimb.metrics import Difference, measure, paired_difference
from nasimb.report.tested import TestSplit

RESAMPLES, SEED = 4000, 0
METRICS = ("balanced_accuracy", "many", "medium", "few")
NORMALISED = "largest_normalised"
WORDS = {
    "largest_plain_head": "largest subnet, plain head",
    "largest": "reweighting",
    NORMALISED: "normalisation",
    "winner": "search",
}


@dataclass(frozen=True)
class Step:
    """One step of the chain.

    Attributes:
        name: what was done: reweighting, normalisation, search, or two of them where one model is missing.
        before, after: roles of the models compared.
        gains: after less before, fractions, by metric; without those of empty groups.
        note: what the reader must know of it; empty where there is nothing.
    """

    name: str
    before: str
    after: str
    gains: Mapping[str, Difference]
    note: str = ""


def is_significant(gain: Difference) -> bool:
    """Whether the 95 % interval leaves out zero."""
    return bool(gain.low > 0 or gain.high < 0)


def steps(result: Mapping[str, Any], split: TestSplit) -> list[Step]:
    """The chain of a run, as far as its models were tested: reweighting, normalisation, search, and all of them.

    None where a run could not use its largest subnet.
    """
    entries = {"winner": result["winner"], **result["baselines"]}
    chain = [role for role in WORDS if role in entries and role in split.predicted]
    if chain[:2] != ["largest_plain_head", "largest"]:
        return []
    found = [_step(split, "reweighting", "largest_plain_head", "largest", "The head alone changes.")]
    if NORMALISED in chain:
        norms = "The largest subnet with the norms and the calibration of the winner."
        found.append(_step(split, "normalisation", "largest", NORMALISED, norms))
        found.append(_step(split, "search", NORMALISED, "winner"))
    elif _normalised_alike(entries["largest"], entries["winner"]):
        alike = "The winner has the norms and the calibration of the largest subnet: nothing was changed."
        found.append(_step(split, "normalisation", "largest", "largest", alike))
        found.append(_step(split, "search", "largest", "winner"))
    else:
        apart = "The run did not test the largest subnet with the winner's norms, so the two cannot be told apart."
        found.append(_step(split, "normalisation and search", "largest", "winner", apart))
    return [*found, _step(split, "all steps", "largest_plain_head", "winner")]


def start(split: TestSplit) -> dict[str, float]:
    """What the chain begins with: recalls of the largest subnet with its plain head, without empty groups."""
    found = measure(split.predicted["largest_plain_head"], split.labels_N, split.training_K)
    return {name: value for name in METRICS if (value := getattr(found, name)) is not None}


def step_table(found: list[Step]) -> pd.DataFrame:
    """A row a step and metric: fractions, ends of the interval, and whether that leaves out zero."""
    rows = [
        {
            "step": step.name, "from": step.before, "to": step.after, "metric": metric, "gain": gain.difference,
            "low": gain.low, "high": gain.high, "significant": is_significant(gain),
        }
        for step in found for metric, gain in step.gains.items()
    ]  # fmt: skip
    columns = ["step", "from", "to", "metric", "gain", "low", "high", "significant"]
    return pd.DataFrame(rows, columns=columns)


def _step(split: TestSplit, name: str, before: str, after: str, note: str = "") -> Step:
    gains = paired_difference(
        split.predicted[after], split.predicted[before], split.labels_N, split.training_K, resamples=RESAMPLES,
        seed=np.random.default_rng(SEED),
    )  # fmt: skip
    return Step(name, before, after, {metric: gains[metric] for metric in METRICS if metric in gains}, note)


def _normalised_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(one["subnet"]["norms"] == other["subnet"]["norms"] and one["calibration"] == other["calibration"])
