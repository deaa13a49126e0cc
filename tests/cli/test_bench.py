"""`nasimb bench` as a user meets it."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from nasimb.bench import BENCHES
from nasimb.cli import main


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Runs `nasimb bench WORDS` in this process, in tmp_path."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def run(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["nasimb", "bench", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        torch.set_num_threads(threads)
        captured = capsys.readouterr()
        return Answer(int(stopped.value.code or 0), captured.out, captured.err)

    return run


def test_quick_figures_on_stdout_progress_on_stderr_and_files(command, tmp_path: Path) -> None:
    answer = command("storage", "head", "--quick", "--space", "digits-resnet", "--repetitions", 2, "--threads", 1,
                     "--json", "bench.json", "--out", "kept")  # fmt: skip
    assert answer.code == 0, answer.err
    assert "orchestration_ms" in answer.out
    assert "1 threads used" in answer.out
    assert "orchestration_ms:" in answer.err
    records = json.loads(Path("bench.json").read_text())
    found = {record["figure"]: record for record in records}
    assert set(found) >= {"orchestration_ms", "ridge_over_sklearn", "logistic_over_sklearn", "imagenet_lt_head"}
    assert found["ridge_over_sklearn"]["repetitions"] == 2
    assert found["ridge_over_sklearn"]["value"] > 0
    assert found["ridge_over_sklearn"]["target"] is None  # small sizes are held against nothing
    assert "--large" in found["imagenet_lt_head"]["reason"]
    assert all(record["quick"] and record["versions"]["torch"] for record in records)
    with Path("kept/storage.csv").open(newline="") as file:
        row, flat = csv.DictReader(file)
    assert float(row["value"]) == found["orchestration_ms"]["value"]
    assert flat["figure"] == "orchestration_flat"
    assert {record["data"] for record in records if record["value"] is not None} == {"made"}
    assert {file.name for file in Path("kept").iterdir()} == {"storage.csv", "head.csv"}


def test_one_measurement_of_several(command) -> None:
    answer = command("head", "--only", "ridge_over_sklearn", "--quick", "--repetitions", 1)
    assert answer.code == 0, answer.err
    assert "ridge_over_sklearn" in answer.out
    assert "logistic_over_sklearn" not in answer.out


def test_one_measurement_after_another_leaves_the_figures_of_both(command) -> None:
    for name in ("ridge_over_sklearn", "imagenet_lt_head"):
        answer = command("head", "--only", name, "--quick", "--repetitions", 1, "--out", "kept", "--data", "digits")
        assert answer.code == 0, answer.err
    with Path("kept/head.csv").open(newline="") as file:
        rows = {row["figure"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["ridge_over_sklearn", "imagenet_lt_head"]
    assert (rows["ridge_over_sklearn"]["data"], rows["ridge_over_sklearn"]["supernet"]) == ("made", "none")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["storge"], "Did you mean 'storage'"),
        (["head", "--only", "ridge"], "--only must be one of"),
        (["candidate", "--data", "folder:nowhere", "--quick"], "nowhere"),
        (["storage", "--device", "abacus"], "abacus"),
        (["storage", "--space", "digts-resnet", "--quick"], "digits-resnet"),
        (["storage", "--repetitions", "0"], "--repetitions"),
        (["screening", "--seeds", "0"], "--seeds"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_two(command, words: list[str], said: str) -> None:
    answer = command(*words)
    assert answer.code == 2
    lines = [line for line in answer.err.splitlines() if line.startswith("nasimb: ")]
    assert len(lines) == 1
    assert said in lines[0]


def test_help_names_every_benchmark(command) -> None:
    answer = command("--help")
    assert answer.code == 0
    assert all(name in answer.out for name in BENCHES)


def test_predict_is_measured_against_the_model_alone(command) -> None:
    answer = command("predict", "--quick", "--space", "digits-resnet", "--repetitions", 2, "--threads", 1)
    assert answer.code == 0, answer.err
    assert "predict_over_raw_largest" in answer.out
    assert "predict_over_raw_smallest" in answer.out
