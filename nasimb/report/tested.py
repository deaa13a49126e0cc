"""What a run's models said of the test images, read from its folder for a report.

A run of an older nasimb lacks classes.json, or both files: then there is less to show, and `missing` says what.
Shapes: N test images, K classes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nasimb.errors import ResumeError
from nasimb.metrics import Integers
from nasimb.rundir import RunDir

PREDICTIONS, CLASSES, MODEL = "predictions.csv", "classes.json", "best/model.json"


@dataclass(frozen=True, eq=False)
class TestSplit:
    """The test split as the models of one run saw it.

    Attributes:
        classes: names of all K classes.
        training_K: training images of every class.
        labels_N: class index of every test image.
        predicted: class indices [N] by role: winner, largest, ...
        worst: as in classes.json; None where the run did not keep examples.
    """

    classes: tuple[str, ...]
    training_K: Integers
    labels_N: Integers
    predicted: Mapping[str, Integers]
    worst: list[dict[str, Any]] | None

    __test__ = False  # no test class, whatever its name says


def read_test_split(folder: Path) -> tuple[TestSplit | None, list[str]]:
    """The test split of a finished run, and what the folder lacks, in sentences.

    Raises:
        ResumeError: a file is there, but does not say what was written.
    """
    file, run = folder / PREDICTIONS, RunDir(folder)
    if not file.exists():
        return None, [f"This run has no {PREDICTIONS}: nothing can be said about steps with intervals, or classes."]
    kept = run.read_json(CLASSES)
    missing = [] if kept else [f"This run has no {CLASSES}, as older ones: there are no example images."]
    counted = (kept["classes"], kept["training_images"]) if kept else _from_model(run)
    if counted is None:
        return None, [*missing, f"It has no {MODEL} either, so that the classes and their sizes are not known."]
    classes = tuple(map(str, counted[0]))
    labels_N, predicted = _predictions(file, classes)
    if kept and np.bincount(labels_N, minlength=len(classes)).tolist() != kept["test_images"]:
        raise _damaged(
            file,
            "must have every test image that the run has read",
            f"{len(labels_N)} of {sum(kept['test_images'])} or others",
        )
    worst = kept["worst"] if kept else None
    return TestSplit(classes, np.array(counted[1], dtype=np.int64), labels_N, predicted, worst), missing


def _from_model(run: RunDir) -> tuple[list[str], list[int]] | None:
    """Class names and training counts from the model's description, which every finished run has."""
    file = run.path / MODEL
    if not file.exists():
        return None
    values = json.loads(file.read_bytes())
    return values["classes"], values["class_counts_K"]


def _predictions(file: Path, classes: tuple[str, ...]) -> tuple[Integers, dict[str, Integers]]:
    """Labels, and predictions by role, as indices into `classes`."""
    number = {name: k for k, name in enumerate(classes)}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(file, "must be a table", error) from None
    roles = [name for name in (rows[0] if rows else {}) if name not in ("image", "label", "winner_probability")]
    try:
        labels = [number[row["label"]] for row in rows]
        predicted = {role: np.array([number[row[role]] for row in rows], dtype=np.int64) for role in roles}
    except (KeyError, TypeError) as error:
        raise _damaged(file, "must name the classes of the run", error) from None
    if not rows or "winner" not in predicted:
        raise _damaged(file, "must have what the winner said", "no such column")
    return np.array(labels, dtype=np.int64), predicted


def _damaged(file: Path, rule: str, got: object) -> ResumeError:
    return ResumeError(f"{file} {rule}", got=got, do="Restore it, or remove it and do without.")
