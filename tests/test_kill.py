"""Real processes, killed for real: the same command ends with what an undisturbed run finds.

All but the last are forked from one that has imported torch already, or most of the tests would be imports.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from test_pipeline import essence, rows
from tiny_run import ASSIGNED, DATA, SPACE

from nasimb.ledger import clock_seconds, read_account

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def start(tmp_path: Path, run: Path) -> Forked:
    """`nasimb search` on the tiny space, in a process group of its own."""
    config = tmp_path / "tiny.yaml"
    (tmp_path / "space.yaml").write_text(SPACE)
    config.write_text(json.dumps({"data": DATA, "space": str(tmp_path / "space.yaml"), "budget": "16trials"}))
    more = [*ASSIGNED[1:], "training_steps=60", "heads.count=3", "heads.folds=3"]
    assigned = [word for text in more for word in ("--set", text)]
    return Forked(tmp_path, "search", "--config", config, "--run", run, "--device", "cpu", *assigned)


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


IN_PHASE: dict[str, Callable[[Path], bool]] = {
    "prepare": lambda run: (run / "config.yaml").exists(),
    "supernet": lambda run: (run / "splits.json").exists(),
    "head before the search": lambda run: lines(run / "heads.jsonl") >= 1,
    "search": lambda run: lines(run / "trials.csv") >= 7,
    "head": lambda run: lines(run / "heads.jsonl") >= 5,
    "evaluate": lambda run: (run / "best" / "model.json").exists(),
}
"""What shows, from outside, that a run has come so far."""


def signalled(process: Forked, reached: Callable[[], bool], number: int) -> str:
    """Send a signal as soon as something holds; returns stderr."""
    deadline = time.monotonic() + 120
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert process.poll() is None, process.communicate()
    process.send_signal(number)
    return process.communicate(timeout=60)[1]


def finish(tmp_path: Path, run: Path) -> dict[str, Any]:
    process = start(tmp_path, run)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    result = json.loads((run / "result.json").read_text())
    assert isinstance(result, dict)
    return result


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    tmp_path = tmp_path_factory.mktemp("undisturbed")
    return tmp_path / "run", finish(tmp_path, tmp_path / "run")


@pytest.mark.parametrize("phase", IN_PHASE)
def test_after_sigkill_the_same_command_finds_the_same_winner(
    tmp_path: Path, undisturbed: tuple[Path, dict[str, Any]], phase: str
) -> None:
    whole, expected = undisturbed
    run = tmp_path / "run"
    process = start(tmp_path, run)
    signalled(process, lambda: IN_PHASE[phase](run), signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (run / "result.json").exists()
    spent = sum(clock_seconds(read_account(run / "ledger.jsonl")).values())
    result = finish(tmp_path, run)
    assert essence(comparable(result)) == essence(comparable(expected))
    assert rows(run) == rows(whole)
    assert result["spend"]["spent_seconds"] >= spent - 0.01
    assert sum(clock_seconds(read_account(run / "ledger.jsonl")).values()) == pytest.approx(
        result["spend"]["spent_seconds"], abs=0.5
    )


@pytest.mark.parametrize(
    ("number", "code", "phase"), [(signal.SIGTERM, 143, "search"), (signal.SIGINT, 130, "supernet")]
)
def test_a_polite_signal_ends_in_a_sentence_and_the_run_goes_on(
    tmp_path: Path, undisturbed: tuple[Path, dict[str, Any]], number: int, code: int, phase: str
) -> None:
    whole, expected = undisturbed
    run = tmp_path / "run"
    process = start(tmp_path, run)
    said = signalled(process, lambda: IN_PHASE[phase](run), number)
    assert process.returncode == code
    assert "Give the same command again" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert essence(comparable(finish(tmp_path, run))) == essence(comparable(expected))
    assert rows(run) == rows(whole)


def test_a_running_search_is_not_joined_by_a_second(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = start(tmp_path, run)
    try:
        while not (run / "config.yaml").exists() and first.poll() is None:
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
        second = start(tmp_path, run)
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 2
        assert "in use" in errors
    finally:
        first.kill()
        first.communicate()


def test_a_budget_in_real_time_is_kept_and_used(tmp_path: Path) -> None:
    """The shipped data and space; the time is the ledger's, start-up not included."""
    command = [sys.executable, "-m", "nasimb", "search", "--budget", "30s", "--run", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    waiting = os.getloadavg()[0]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150, check=False)
    if done.returncode == 2 and "Give at least" in done.stderr:
        pytest.skip(f"this machine is too slow or too busy: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["spend"]["spent_seconds"] <= 30 + 1
    if result["spend"]["spent_seconds"] < 0.9 * 30 and waiting > (os.cpu_count() or 1):
        pytest.skip(f"{waiting:.1f} processes share {os.cpu_count()} cores: what work takes is not what it took before")
    assert result["spend"]["spent_seconds"] >= 0.9 * 30
    assert result["trials"]["finished"] >= 3


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """JSON made of itself, so that tuples and lists do not differ."""
    return json.loads(json.dumps(result))
