"""`nasimb retrain` as it is typed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from answers import Command
from PIL import Image

from nasimb.data.base import ImageSet
from nasimb.export import load
from nasimb.onsite.profiles import images_of_run


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


def test_a_trial_is_trained_and_reported(command: Command, run: Path) -> None:
    words = ("retrain", "run#0", "--budget", "4s", "--loss", "{name: deferred, base: ldam}", "--from-scratch")
    first = command(*words, "--set", "learning_rate=0.05", "--seed", 3, "--device", "cpu")
    assert first.code == 0, first.err
    assert "deferred, from scratch" in first.out
    assert "The test split was read once more" in first.out
    (folder,) = (run / "retrained").iterdir()
    assert re.fullmatch("trial0-deferred-scratch-[0-9a-f]{8}-4s-seed3", folder.name)
    assert load(folder / "best").classes == ("0", "1", "2", "3", "4")
    again = command(*words, "--set", "learning_rate=0.05", "--seed", 3, "--device", "cpu", "--json")
    assert json.loads(again.out) == json.loads((folder / "result.json").read_text())
    report = command("report", "run")
    assert report.code == 0, report.err
    assert "retrained:" in report.out
    assert command("report", "run", "--tables", "tables").code == 0
    assert "retrained: trial0-deferred" in (run.parent / "tables" / "models.csv").read_text()


def written(images: ImageSet, folder: Path) -> int:
    """Images of a run as files among others of their classes; how many."""
    pixels_NHW = images.store.read(images.indices_N, torch.device("cpu"))[:, 0].numpy()
    for number, (pixels_HW, label) in enumerate(zip(pixels_NHW, images.labels_N.tolist(), strict=True)):
        Image.fromarray(pixels_HW).save(folder / images.classes[label] / f"{id(images)}-{number}.png")
    return len(images)


def test_a_retrained_model_is_used_as_any_other(
    command: Command, run: Path, write_digits: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = command("retrain", "run", "--budget", "3s", "--device", "cpu")
    assert found.code == 0, found.err
    folder = Path("run/retrained/winner-balanced_softmax-3s-seed0")
    model = load(folder / "best")
    # Its own training images are known, also to a check.
    shipped = command("export", folder, "--format", "onnx", "--out", "shipped", "--check")
    assert shipped.code == 0, shipped.err
    assert "checked on " in shipped.out
    card = Path("shipped/README.md").read_text()
    assert "all of it, a linear head included, trained on the training images" in card
    assert "read once more, after the test of the search" in card
    assert "beginning with those of the super-network: momentum 0.9" in card
    assert "Command: nasimb retrain run" in card
    photos, source = write_digits(Path("photos"), {str(digit): (digit, 9) for digit in range(5)}), Path("run/best")
    known = {
        which: written(images_of_run(source, which, torch.device("cpu")), photos) for which in ("target", "source")
    }
    files = sorted(photos.rglob("*.png"))
    assert command("predict", folder, "photos", "--out", "preds.csv").code == 0
    assert pd.read_csv("preds.csv")["class"].astype(str).tolist() == model.predict(files).tolist()
    told = json.loads(command("evaluate", folder, "--data", "photos", "--json").out)["notes"]
    every = sum(known.values())
    for said in (f"head of {folder} was fitted to {known['target']}", f"backbone of {folder} was trained on {every}"):
        assert f"The {said} of these {len(files)} images: figures flatter it." in told
    adapted = command("adapt", folder, "--data", "photos", "--device", "cpu")
    assert adapted.code == 0, adapted.err
    assert f"{sum(model.description.class_counts_K)} training images (target)" in adapted.out
    refused = command("head", "--from", folder, "--data", "folder:photos", "--device", "cpu")
    assert refused.code == 2
    assert "must not have been trained on images of the test split" in refused.error
    monkeypatch.setattr("nasimb.retrain.PENALTIES", (0.1,))
    # With a new head, the card of the next export is of that.
    headed = command("head", "--from", folder, "--data", "digits:5-9", "--loss", "ridge", "--out", "headed")
    assert headed.code == 0, headed.err
    assert command("export", "headed", "--format", "safetensors", "--out", "again").code == 0
    card = Path("again/README.md").read_text()
    assert "with a linear head fitted to the training images" in card
    assert "All weights were trained after the search" in card
    assert "read once, at the end" in card


def test_a_budget_that_is_too_short_is_refused(command: Command, run: Path) -> None:
    found = command("retrain", "run", "--budget", "0.2s", "--device", "cpu")
    assert found.code == 2
    assert "the budget must buy 30 steps of training and a test; got 0.2s" in found.error
    assert "Give at least 5s on this machine." in found.error
    assert not (run / "retrained").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--budget", "9trials"), "limit time alone"),
        (("--budget", "2s", "--loss", "{name: focal"), "must be YAML"),
        (("--budget", "2s", "--set", "shift"), "key=value"),
        (("--budget", "2s", "--set", "depth=3"), "depth"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(command: Command, run: Path, words: tuple[str, ...], told: str) -> None:
    answer = command("retrain", "run", "--device", "cpu", *words)
    assert answer.code == 2
    assert told in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not (run / "retrained").exists()
