"""A real disk full in the middle of a real run: a sentence, and the same command goes on once there is space."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_disk import filled, small_disk
from test_kill import IN_PHASE, finish, start
from test_pipeline import essence, rows

from nasimb.ledger import Ledger
from nasimb.rundir import RunDir

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    tmp_path = tmp_path_factory.mktemp("undisturbed")
    return tmp_path / "run", finish(tmp_path, tmp_path / "run")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", mib=4) as folder:
        yield folder


@pytest.mark.parametrize("phase", IN_PHASE)
def test_a_disk_full_in_any_phase_costs_nothing_that_was_written(
    tmp_path: Path, disk: Path, undisturbed: tuple[Path, dict[str, Any]], phase: str
) -> None:
    whole, expected = undisturbed
    run = disk / "run"
    process = start(tmp_path, run)
    deadline = time.monotonic() + 120
    while not IN_PHASE[phase](run) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    with filled(disk):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1, errors
        assert "Traceback" not in errors
        (sentence,) = [line for line in errors.splitlines() if line.startswith("nasimb: ")]
        assert sentence == errors.splitlines()[-1]
        assert "the disk must have space" in sentence
        assert "No space left on device" in sentence
        assert sentence.endswith("Make space, and give the same command again to go on.")
    assert not list(run.rglob(".*.part"))
    assert not (run / "result.json").exists()
    for name in ("trials.csv", "heads.jsonl", "ledger.jsonl", "study.journal"):
        file = run / name
        assert not file.exists() or file.read_bytes()[-1:] in (b"", b"\n")
    written = len(RunDir(run).read_trials())
    said: list[str] = []
    spent = (
        Ledger(run / "ledger.jsonl", lambda: 0.0, warn=said.append).spent() if (run / "ledger.jsonl").exists() else 0
    )
    assert said == []
    result = finish(tmp_path, run)
    assert essence(json.loads(json.dumps(result))) == essence(json.loads(json.dumps(expected)))
    assert rows(run) == rows(whole)
    assert len(rows(run)) >= written
    assert result["spend"]["spent_seconds"] >= spent - 0.01


def test_with_the_disk_still_full_the_same_command_says_so_again(tmp_path: Path, disk: Path) -> None:
    run = disk / "run"
    process = start(tmp_path, run)
    while not IN_PHASE["search"](run) and process.poll() is None:
        time.sleep(0.001)
    with filled(disk):
        process.communicate(timeout=120)
        again = start(tmp_path, run)
        _, errors = again.communicate(timeout=120)
        assert again.returncode in (1, 2)
        assert "Traceback" not in errors
        assert "Make space" in errors.splitlines()[-1]
    assert finish(tmp_path, run)["trials"]["finished"] == 16
    shutil.rmtree(run)
