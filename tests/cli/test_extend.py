"""`nasimb extend` as a user meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from answers import Command

from nasimb.extension import extensions
from nasimb.rundir import RunDir


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


def test_the_answer_says_that_the_test_split_was_read_again(command: Command, run: Path) -> None:
    done = command("extend", "run", "--budget", "+2trials")
    assert done.code == 0, done.err
    assert "the budget grows from 6trials to 8trials" in done.err
    assert "note: The test split was read 2 times" in done.out
    assert "trials: 8 scored" in done.out
    assert extensions(RunDir(run))[0].seen, "shown, so that the same words extend again"
    assert "budget   8trials (extended from 6trials)" in command("status", "run").out
    again = json.loads(command("extend", "run", "--budget", "+2trials", "--json").out)
    assert (again["trials"]["finished"], again["test_reads"]) == (10, 3)
    assert json.loads(Path("run/result-2.json").read_text())["trials"]["finished"] == 8


def test_a_result_that_could_not_be_shown_is_shown_the_next_time(
    command: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(32, "Broken pipe")

    with monkeypatch.context() as patched:
        patched.setattr("nasimb.report.show.print_report", broken)
        assert command("extend", "run", "--budget", "+2trials").code == 1
    done = command("extend", "run", "--budget", "+2trials")
    assert "trials: 8 scored" in done.out
    assert "is finished" in done.err


def test_an_interrupted_extension_says_how_to_go_on(command: Command, run: Path) -> None:
    (run / "result.json").rename(run / "result-1.json")  # as a kill leaves it
    one = {"added": "+2trials", "before": "6trials", "budget": "8trials", "environment": {}, "seen": False}
    RunDir(run).write_json("extensions.json", {"extensions": [one]})
    assert "not finished; type nasimb extend and its folder to go on" in command("status", "run").out
    report = command("report", "run")
    assert report.code == 2
    assert "nasimb extend" in report.error
    done = command("extend", "run")
    assert done.code == 0, done.err
    assert "trials: 8 scored" in done.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("run", ["finished run", "--budget +6trials"]),
        ("run --budget 2trials", ["plus sign", "'2trials'"]),
        ("run --budget +2h", ["own unit", "+6trials"]),
        ("run --budget +2", ["must have a unit"]),
        ("nowhere --budget +2trials", ["config.yaml", "nowhere"]),
        ("", ["Missing argument"]),
    ],
)
def test_wrong_extensions_are_one_line(command: Command, run: Path, words: str, told: list[str]) -> None:
    answer = command("extend", *words.split())
    assert answer.code == 2
    for part in told:
        assert part in answer.error
    assert not (run / "extensions.json").exists()
    assert (run / "result.json").exists()
