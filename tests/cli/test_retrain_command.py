"""`nasimb retrain` as it is typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from answers import Command

from nasimb.export import load


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


def test_a_trial_is_trained_and_reported(command: Command, run: Path) -> None:
    words = ("retrain", "run#0", "--budget", "2s", "--loss", "{name: deferred, base: ldam}", "--from-scratch")
    first = command(*words, "--set", "learning_rate=0.05", "--seed", 3, "--device", "cpu")
    assert first.code == 0, first.err
    assert "deferred, from scratch" in first.out
    assert "The test split was read once more" in first.out
    folder = run / "retrained" / "trial0-deferred-scratch-2s-seed3"
    assert load(folder / "best").classes == ("0", "1", "2", "3", "4")
    again = command(*words, "--set", "learning_rate=0.05", "--seed", 3, "--device", "cpu", "--json")
    assert json.loads(again.out) == json.loads((folder / "result.json").read_text())
    report = command("report", "run")
    assert report.code == 0, report.err
    assert "retrained:" in report.out
    assert command("report", "run", "--tables", "tables").code == 0
    assert "retrained: trial0-deferred" in (run.parent / "tables" / "models.csv").read_text()


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
