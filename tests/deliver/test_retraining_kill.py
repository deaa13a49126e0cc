"""A retraining whose process is really killed, again and again: it goes on, and pays once, within its budget."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from forked import Forked

from nasimb.export import load
from nasimb.ledger import clock_seconds, read_account
from nasimb.supernet.train import STATE_FILE

pytestmark = pytest.mark.slow

BUDGET_SECONDS = 8.0


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ((signal.SIGKILL, signal.SIGKILL, signal.SIGKILL), -signal.SIGKILL),
        ((signal.SIGTERM,), 143),
        ((signal.SIGINT,), 130),
    ],
    ids=["killed thrice", "terminated", "interrupted"],
)
def test_the_same_command_goes_on(
    finished_run: Path, tmp_path: Path, numbers: tuple[signal.Signals, ...], code: int
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    out = tmp_path / "out"
    words = ("retrain", run, "--budget", f"{BUDGET_SECONDS:.0f}s", "--out", out, "--device", "cpu")
    before = 0.0
    for number in numbers:
        process = Forked(tmp_path, *words)
        deadline, seen = time.monotonic() + 60, (out / STATE_FILE).exists() and (out / STATE_FILE).stat().st_mtime_ns
        while process.poll() is None and time.monotonic() < deadline:
            if (out / STATE_FILE).exists() and (out / STATE_FILE).stat().st_mtime_ns != seen:
                break
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == code, said
        assert not (out / "result.json").exists()
        if number != signal.SIGKILL:
            assert "same command" in said
        spent = sum(clock_seconds(read_account(out / "ledger.jsonl")).values())
        assert spent > before
        before = spent
    process = Forked(tmp_path, *words)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    result = json.loads((out / "result.json").read_text())
    assert before < result["spend"]["spent_seconds"] <= BUDGET_SECONDS + 1
    assert not (out / STATE_FILE).exists()
    assert load(out / "best").classes == load(run / "best").classes
