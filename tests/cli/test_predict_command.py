"""`nasimb predict` as a user meets it."""

from __future__ import annotations

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from answers import Command

import nasimb
from nasimb.export import load, save

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def photos(write_digits: Callable[..., Path], tmp_path: Path) -> Path:
    """Digits 0 to 4, twelve of each."""
    return write_digits(tmp_path / "photos", {str(digit): (digit, 12) for digit in range(5)})


@pytest.mark.parametrize("named", ["run", "run/best"])
def test_the_table_is_what_the_model_says(command: Command, run: Path, photos: Path, named: str) -> None:
    found = command("predict", named, "photos", "--out", "preds.csv", "--top-k", 2, "--probabilities")
    assert found.code == 0, found.err
    assert found.out == ""
    assert "60 images in" in found.err
    assert "written to preds.csv" in found.err
    table = pd.read_csv("preds.csv", dtype={"class": str, "class_2": str})
    model = nasimb.load(run / "best")
    assert list(table.columns) == [
        "path", "class", "probability", "class_2", "probability_2", *(f"p_{name}" for name in model.classes)
    ]  # fmt: skip
    assert table["class"].tolist() == model.predict(table["path"].tolist()).tolist()
    expected_NK = model.predict_proba(table["path"].tolist())
    np.testing.assert_allclose(table.iloc[:, 5:].to_numpy(), expected_NK, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table["probability"], expected_NK.max(1), rtol=1e-4)
    np.testing.assert_allclose(table["probability_2"], np.sort(expected_NK, axis=1)[:, -2], rtol=1e-4, atol=1e-6)
    assert (table["class"] != table["class_2"]).all()


def test_without_a_file_the_table_is_the_answer(command: Command, run: Path, photos: Path) -> None:
    found = command("predict", "run", "photos/3/*.png", "--batch", 5)
    rows = list(csv.DictReader(io.StringIO(found.out)))
    assert len(rows) == 12
    assert found.code == 0
    assert rows[0].keys() == {"path", "class", "probability"}


def test_unreadable_files_are_named_and_left_out(command: Command, run: Path, photos: Path) -> None:
    damaged = sorted(photos.rglob("*.png"))[7]
    damaged.write_bytes(b"no image")
    found = command("predict", "run", "photos", "--out", "preds.csv")
    assert found.code == 1
    assert f"left out: photos/{damaged.relative_to(photos)} (not an image in a known format)" in found.err
    assert "1 could not be read and were left out" in found.err
    assert len(pd.read_csv("preds.csv")) == 59
    assert str(damaged.relative_to(photos)) not in Path("preds.csv").read_text()


def test_names_of_files_are_kept_to_the_byte(command: Command, run: Path, photos: Path) -> None:
    source = next(photos.rglob("*.png"))
    strange = [b'comma, "quote".png', b"line\nbreak.png", b"carriage\rreturn.png", b"caf\xe9.png", "Käse.png".encode()]
    folder = Path("strange")
    folder.mkdir()
    for name in strange:
        shutil.copy(source, os.path.join(b"strange", name))
    assert command("predict", "run", "strange", "--out", "preds.csv").code == 0
    with open("preds.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        read = {os.fsencode(row["path"]) for row in csv.DictReader(file)}
    assert read == {b"strange/" + name for name in strange}


def test_names_of_classes_are_data(command: Command, run: Path, photos: Path, tmp_path: Path) -> None:
    model = load(run / "best")
    names = ('=1+1,"x"', "<b>", "a\nb", "p_", "é")
    model.description = replace(model.description, classes=names)
    (tmp_path / "odd").mkdir()
    save(model, tmp_path / "odd")
    found = command("predict", "odd", "photos/1", "--probabilities", "--out", "preds.csv")
    assert found.code == 0, found.err
    table = pd.read_csv("preds.csv")
    assert list(table.columns)[3:] == [f"p_{name}" for name in names]
    assert set(table["class"]) <= set(names)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "photos", "--top-k", 6), "at most the model's 5 classes"),
        (("run", "nothing"), "must exist"),
        (("photos", "photos"), "a model folder must hold model.safetensors"),
        (("run", "photos", "--out", "no/such/preds.csv"), "must have a folder"),
        (("run", "photos", "--out", "photos"), "must have a folder"),
    ],
)
def test_what_is_asked_wrongly_is_said_and_nothing_written(
    command: Command, run: Path, photos: Path, words: tuple[object, ...], said: str
) -> None:
    before = sorted(Path().rglob("*"))
    found = command("predict", *words)
    assert found.code == 2
    assert said in found.error
    assert sorted(Path().rglob("*")) == before


def test_ended_halfway_the_old_table_stays(run: Path, photos: Path, tmp_path: Path) -> None:
    """A table of many files, ended by a signal once the first rows are on their way."""
    many = tmp_path / "more"
    for number in range(40):
        shutil.copytree(photos, many / str(number))
    (tmp_path / "preds.csv").write_text("old\n")
    words = [sys.executable, "-m", "nasimb", "predict", "run", "more", "--batch", "1", "--out", "preds.csv"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / ".preds.csv.part").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "Give the same command again to begin anew." in said
    assert (tmp_path / "preds.csv").read_text() == "old\n"
    assert not (tmp_path / ".preds.csv.part").exists()
