"""`nasimb pareto` as a user meets it."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pandas as pd
from answers import Command

from nasimb.report import Run


def test_the_pareto_set_of_a_run_in_every_form(command: Command, finished_run: Path) -> None:
    asked = command("pareto", finished_run)
    assert asked.code == 0, asked.err
    assert asked.err == ""
    assert "Pareto set" in asked.out
    assert "6 of 6 finished trials keep the limits" in asked.out
    found = json.loads(command("pareto", finished_run, "--json").out)
    assert found == json.loads(command("pareto", finished_run, "--format", "json").out)
    table = pd.read_csv(io.StringIO(command("pareto", finished_run, "--format", "csv").out))
    assert table["number"].tolist() == [entry["number"] for entry in found["pareto"]]
    assert table["macs"].is_monotonic_increasing
    markdown = command("pareto", finished_run, "--format", "markdown").out
    assert markdown.count("\n| ") == 1 + len(found["pareto"])


def test_limits_cut_and_nothing_is_written(command: Command, finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    before = {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()}
    macs = sorted(trial.macs for trial in Run.read(finished_run).trials)
    found = json.loads(command("pareto", "run", "--max-macs", macs[1], "--json").out)
    assert found["within"] == 2
    assert found["best"]["macs"] <= macs[1]
    none = command("pareto", "run", "--max-macs", "0.001K", "--objective-cost", "params")
    assert none.code == 0
    assert "No finished trial is within 1 MACs; the cheapest by params is trial 0" in none.out
    assert {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()} == before


def test_wrong_questions_are_one_line(command: Command, finished_run: Path) -> None:
    assert "50M" in command("pareto", finished_run, "--max-macs", "lots").error
    assert "config.yaml" in command("pareto", "nowhere").error
    wrong = command("pareto", finished_run, "--objective-cost", "latency")
    assert wrong.code == 2
    assert "'macs'" in wrong.error
