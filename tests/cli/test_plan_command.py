"""`nasimb plan` as a user meets it: the options of a search, nothing written, progress apart from the answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from answers import SEARCH, Command
from test_kill import ROOT

PLAN = ("plan", *SEARCH[1:])


def test_a_plan_is_a_table_and_leaves_no_folder(command: Command) -> None:
    before = sorted(Path().rglob("*"))
    found = command(*PLAN, "--price", "2/h", "--devices", "4,1,4")
    assert found.code == 0, found.err
    for told in (
        "supernet",
        "search",
        "4 candidates",
        "cost: 0.",
        "smallest useful budget here",
        "runs/digits-4trials",
    ):
        assert told in found.out
    assert "measuring" in found.err
    assert "measuring" not in found.out, "progress belongs on stderr"
    assert sorted(Path().rglob("*")) == before


@pytest.fixture(autouse=True)
def _short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is no matter of these tests: once is enough."""
    monkeypatch.setattr("nasimb.phases.measure.SHORT_SECONDS", 0.0)


def test_a_plan_for_programs(command: Command) -> None:
    values = json.loads(command(*PLAN, "--json", "--devices", "1,2").out)
    assert [one["devices"] for one in values["plans"]] == [1, 2]
    assert values["plans"][0]["candidates"] == {"low": 4, "expected": 4, "high": 4}
    assert values["run"] == "runs/digits-4trials-seed0"
    assert values["plans"][0]["money"] is None


def test_a_run_that_is_there_is_named(command: Command, finished_run: Path) -> None:
    found = command(*PLAN, "--run", finished_run, "--workers", "3", "--storage", "sqlite:///meet.db")
    assert "holds a run already" in found.out
    assert "3 workers on this machine share its threads" in found.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--budget 1s", ["Give at least"]),
        ("--budget 1gpu-h", ["needs a GPU", "cpu-h"]),
        ("--price 2.5/gpu-h", ["needs a GPU", "--price 2.5/h"]),
        ("--price 2.5", ["2.5/gpu-h"]),
        ("--price 2.5/day", ["'day'"]),
        ("--devices 1,0", ["--devices 1,2,4,8", "'1,0'"]),
        ("--devices two", ["'two'"]),
        ("--devices 9999999999", ["whole numbers"]),
        ("--max-macs 1K", ["smallest subnet"]),
        ("--data diggits", ["Did you mean 'digits'?"]),
        ("--set heads.fold=3", ["'heads.fold'"]),
        ("--storage nowhere", ["address"]),
        ("--seed x", ["--seed"]),
    ],
)
def test_a_wrong_plan_is_one_line(command: Command, words: str, told: list[str]) -> None:
    answer = command(*PLAN, *words.split())
    assert answer.code == 2, answer
    for part in told:
        assert part in answer.error
    assert answer.out == ""


@pytest.mark.slow
def test_a_real_run_on_the_digits_lands_where_its_plan_said(tmp_path: Path) -> None:
    """On the real clock of whatever machine this is: others may take or leave its time between plan and run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    options = ["--budget", "30s", "--run", str(tmp_path / "run"), "--json"]

    def answer(name: str) -> dict:  # type: ignore[type-arg]
        command = [sys.executable, "-m", "nasimb", name, *options]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250, check=False
        )
        if done.returncode == 2 and "Give at least" in done.stderr:
            pytest.skip(f"this machine is too slow or too busy: {done.stderr.splitlines()[-1]}")
        assert done.returncode == 0, done.stderr
        values = json.loads(done.stdout)
        assert isinstance(values, dict)
        return values

    (plan, *_), result = answer("plan")["plans"], answer("search")
    finished = result["trials"]["finished"]
    assert plan["candidates"]["low"] / 2 <= finished <= 2 * plan["candidates"]["high"]
    assert plan["phases"]["supernet"]["wall_seconds"] == pytest.approx(result["spend"]["by_phase"]["supernet"], abs=2)
