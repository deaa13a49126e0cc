"""The numbers of a report as plain tables for programs: fractions, seconds, counts; one row each, the run first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
import pandas as pd

from nasimb.report.classes import class_table, confusion
from nasimb.report.future import Future, future
from nasimb.report.importance import importances
from nasimb.report.run import Run
from nasimb.report.steps import Step, step_table, steps
from nasimb.report.tables import numbers
from nasimb.report.tested import TestSplit, read_test_split
from nasimb.search.trial import FINISHED, Trial, pareto_set


@dataclass(frozen=True, eq=False)
class Findings:
    """One finished run with everything that a page or tables are made of.

    Attributes:
        name: of the run, told apart from others of this name.
        split: None where the folder does not have it; `missing` says what it lacks.
        objective: what the run maximised.
        cost: "macs" or "params", the one of the run's objective.
        why_no_importances: a sentence where there are none.
    """

    name: str
    run: Run
    split: TestSplit | None
    missing: list[str]
    steps: list[Step]
    future: Future
    importances: pd.DataFrame
    why_no_importances: str
    objective: str
    cost: str


def findings(folders: Sequence[Path]) -> list[Findings]:
    """Read run folders.

    Raises:
        InputError: a folder is no run, or the run is not finished. ResumeError: a file of it is damaged.
    """
    found: list[Findings] = []
    for folder in folders:
        run = Run.read(folder)
        result = run.finished_result()
        objective, _, cost = str(run.config["objective"]).partition(",")
        split, missing = read_test_split(folder)
        eligible = run.trials_within_limits()
        table, why_not = importances(eligible)
        found.append(
            Findings(
                name=_unlike(run.name, [one.name for one in found]),
                run=run,
                split=split,
                missing=missing,
                steps=[] if split is None else steps(result, split),
                future=future(run.trials, {trial.number for trial in eligible}),
                importances=table,
                why_no_importances=why_not,
                objective=objective,
                cost=cost or "macs",
            )
        )
    return found


def _unlike(name: str, taken: Sequence[str]) -> str:
    """The name, or with the first number that tells it from those taken."""
    numbered = (f"{name} ({number})" for number in count(2))
    return next(one for one in chain([name], numbered) if one not in taken)


def number_tables(found: Sequence[Findings]) -> dict[str, pd.DataFrame]:
    """Every table by name; those that no run has anything for are left out."""
    parts = [_of_run(one) for one in found]
    names = list(dict.fromkeys(name for part in parts for name in part))
    tables = {name: pd.concat([part[name] for part in parts if name in part], ignore_index=True) for name in names}
    return {name: table for name, table in tables.items() if len(table)}


def norm_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """Scored trials by stage and norm: how many, their mean score and the best."""
    rows = [
        {"stage": stage, "norm": norm, "score": trial.score}
        for trial in trials
        if trial.state == FINISHED and trial.score is not None
        for stage, norm in enumerate(trial.candidate.subnet.norms, start=1)
    ]
    if not rows:
        return pd.DataFrame(columns=["stage", "norm", "trials", "mean_score", "best_score"])
    scores = pd.DataFrame(rows).groupby(["stage", "norm"], sort=True)["score"]
    return scores.agg(trials="count", mean_score="mean", best_score="max").reset_index()


def _of_run(one: Findings) -> Mapping[str, pd.DataFrame]:
    run, result = one.run, one.run.finished_result()
    front = pareto_set(run.trials_within_limits(), one.cost)
    spent = result["spend"]["by_phase"]
    tables = {
        "models": numbers([run]).drop(columns="run"),
        "steps": step_table(one.steps),
        "candidates": _trials(run.trials),
        "pareto": _trials(front),
        "spend": pd.DataFrame({"phase": list(spent), "seconds": list(spent.values())}),
        "trials_by_outcome": pd.DataFrame({"outcome": list(result["trials"]), "trials": result["trials"].values()}),
        "best_so_far": _future(one.future),
        "norms": norm_table(run.trials_within_limits()),
        "importances": one.importances,
    }
    if one.split is not None:
        tables |= {"classes": class_table(one.split), "confusion": _confusion(one.split)}
    return {
        name: pd.concat([pd.Series(one.name, table.index, name="run"), table], axis=1) for name, table in tables.items()
    }


def _trials(trials: Sequence[Trial]) -> pd.DataFrame:
    frame = pd.DataFrame([trial.to_cells() for trial in trials])
    for column in frame.columns:
        numeric = pd.to_numeric(frame[column], errors="coerce")
        if (frame[column] != "").any() and numeric.notna().eq(frame[column] != "").all():
            frame[column] = numeric
    return frame


def _future(found: Future) -> pd.DataFrame:
    past = pd.DataFrame({"seconds": found.seconds_T, "score": found.score_T, "best": found.best_T})
    if not len(found.seconds_M):
        return past
    band = {"seconds": found.seconds_M, "low": found.low_M, "expected": found.middle_M, "high": found.high_M}
    return pd.concat([past, pd.DataFrame(band)], ignore_index=True)


def _confusion(split: TestSplit) -> pd.DataFrame:
    """Pairs that occur: true class, predicted class, images."""
    images_KK = confusion(split)
    rows, columns = np.nonzero(images_KK)
    return pd.DataFrame(
        {
            "class": [split.classes[k] for k in rows.tolist()],
            "predicted": [split.classes[k] for k in columns.tolist()],
            "images": images_KK[rows, columns].tolist(),
        }
    )
