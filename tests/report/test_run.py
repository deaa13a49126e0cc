"""A run folder is read without being changed, finished or not; what is damaged is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nasimb.accounts import Charge, line_of
from nasimb.errors import InputError, ResumeError
from nasimb.report import Run
from nasimb.report.show import closing_lines
from nasimb.report.status import status_lines


@pytest.fixture
def folder(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_reading_changes_nothing(folder: Path) -> None:
    with (folder / "trials.csv").open("a") as file:
        file.write("7,finis")  # as a kill leaves it
    before = contents(folder)
    run = Run.read(folder)
    status_lines(run)
    assert contents(folder) == before
    assert [trial.number for trial in run.trials] == list(range(len(run.trials)))


def test_trials_as_a_frame_have_numbers(folder: Path) -> None:
    frame = Run.read(folder).trials_frame()
    scores = frame["score"].dropna()
    assert scores.between(0, 1).all()
    assert (frame["macs"] > 0).all()
    result = json.loads((folder / "result.json").read_text())
    assert (frame["state"] == "finished").sum() == result["trials"]["finished"]


def test_the_folder_one_stands_in_has_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert Run.read(Path()).name == "run"


def test_status_of_a_finished_run(folder: Path) -> None:
    run = Run.read(folder)
    lines = status_lines(run)
    assert run.result is not None
    assert lines[0] == "run: finished"
    assert lines[1] == "budget   6trials"
    assert lines[2].startswith(f"spent    {sum(run.spent_seconds.values()):.1f} s")
    best = max(trial.score for trial in run.trials if trial.score is not None)
    assert any(line.startswith(f"best     {best:.4f} held out") for line in lines)
    assert lines[-1].startswith(f"winner   {run.result['winner']['test']['balanced_accuracy']:.4f}")


def test_status_names_what_became_of_the_trials(folder: Path) -> None:
    run = Run.read(folder)
    first = run.trials[0]
    states = ["failed", *1200 * ["screened"], "infeasible", "cached", "cached"]
    others = [replace(first, number=n, state=state, score=None) for n, state in enumerate(states, start=1)]
    lines = status_lines(replace(run, trials=[first, *others]))
    counted = "trials   1 finished, 1,200 screened out, 2 repeats at no cost, 1 over a limit, 1 failed"
    assert counted in lines
    assert "trials   1 finished" in status_lines(replace(run, trials=[first]))


def test_status_of_a_run_that_has_only_begun(folder: Path) -> None:
    for file in folder.iterdir():
        if file.name != "config.yaml":
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    lines = status_lines(Run.read(folder))
    assert lines == [
        "run: not finished; the same command goes on", "budget   6trials", "spent    0.0 s (nothing yet)",
    ]  # fmt: skip


def test_a_damaged_trial_is_named_with_its_row(folder: Path) -> None:
    file = folder / "trials.csv"
    header, first, second, *more = file.read_text().splitlines(keepends=True)
    file.write_text("".join([header, first, second.replace("finished", "fini", 1), *more]))
    with pytest.raises(ResumeError, match=r"trials\.csv .*row 2, whose last cell"):
        Run.read(folder)


def test_the_best_so_far_keeps_the_limits(folder: Path) -> None:
    run = Run.read(folder)
    over = replace(run.trials[0], number=99, score=1.0, macs=10**9, params=10)
    limits = {**run.config, "max_macs": max(trial.macs for trial in run.trials)}
    lines = status_lines(replace(run, trials=[*run.trials, over], config=limits))
    assert [line for line in lines if line.startswith("best")] == [
        line for line in status_lines(run) if line.startswith("best")
    ]
    nothing = status_lines(replace(run, config={**run.config, "max_params": 1}))
    assert not any(line.startswith("best") for line in nothing)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("result.json", '{"schema": 1,'),
        ("ledger.jsonl", "not a charge\n"),
        ("trials.csv", "other,columns\n1,2\n"),
        ("config.yaml", "a: [\n"),
        ("config.yaml", ""),
        ("config.yaml", "- a list\n"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / "ledger.mark").unlink()  # with it, a damaged ledger is restored
    with pytest.raises(InputError, match=name) as refused:
        Run.read(folder)
    assert "\n" not in str(refused.value)


def test_downtime_is_told_where_there_was_any(folder: Path) -> None:
    run = Run.read(folder)
    assert not any(line.startswith("down") for line in [*status_lines(run), *closing_lines(run, folder)])
    lines = (folder / "ledger.jsonl").read_bytes()
    values = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    later = line_of(Charge("search", "main", 0, 1), 0.0, values[-1]["at"] + 100)
    (folder / "ledger.jsonl").write_bytes(lines + later.encode())
    again = Run.read(folder)
    assert any(line.startswith("down     10") for line in status_lines(again))
    assert any(line.startswith("down: 10") and "not charged" in line for line in closing_lines(again, folder))
    (folder / "ledger.jsonl").unlink()  # its mark is left
    assert Run.read(folder).spent_seconds.keys() == run.spent_seconds.keys()
