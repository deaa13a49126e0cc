"""What a run keeps of the test images is read as it was written; what is not there is said."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from nasimb.errors import ResumeError
from nasimb.metrics import measure
from nasimb.report.tested import read_test_split


@pytest.fixture
def folder(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


def test_recalls_are_those_of_the_result(folder: Path) -> None:
    split, missing = read_test_split(folder)
    result = json.loads((folder / "result.json").read_text())
    assert split is not None
    assert missing == []
    assert set(split.predicted) == {"winner", *result["baselines"]}
    for role, entry in {"winner": result["winner"], **result["baselines"]}.items():
        found = measure(split.predicted[role], split.labels_N, split.training_K)
        assert list(found.recalls_K) == pytest.approx(entry["test"]["recalls"])
        assert found.few == pytest.approx(entry["test"]["few"])


def test_an_older_run_lacks_examples_and_says_so(folder: Path) -> None:
    whole, _ = read_test_split(folder)
    (folder / "classes.json").unlink()
    split, missing = read_test_split(folder)
    assert whole is not None
    assert split is not None
    assert split.classes == whole.classes
    assert np.array_equal(split.training_K, whole.training_K), "from the description of the model"
    assert split.worst is None
    assert missing == ["This run has no classes.json, as older ones: there are no example images."]


def test_without_a_model_too_there_is_nothing_to_number_by(folder: Path) -> None:
    (folder / "classes.json").unlink()
    (folder / "best" / "model.json").unlink()
    split, missing = read_test_split(folder)
    assert split is None
    assert len(missing) == 2


def test_without_predictions_there_is_no_split(folder: Path) -> None:
    (folder / "predictions.csv").unlink()
    split, missing = read_test_split(folder)
    assert split is None
    assert "predictions.csv" in missing[0]


def test_a_class_that_the_run_does_not_have_is_named(folder: Path) -> None:
    file = folder / "predictions.csv"
    rows = list(csv.reader(file.open(newline="")))
    rows[1][1] = "unheard of"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    with pytest.raises(ResumeError, match="unheard of"):
        read_test_split(folder)


def test_a_part_of_the_predictions_is_not_taken_for_all(folder: Path) -> None:
    file = folder / "predictions.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(ResumeError, match="every test image"):
        read_test_split(folder)


def test_what_is_no_text_is_said(folder: Path) -> None:
    (folder / "predictions.csv").write_bytes(b"image,label,winner\n\xff\xfe,0,0\n")
    with pytest.raises(ResumeError, match="must be a table"):
        read_test_split(folder)
