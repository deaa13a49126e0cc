"""Extensions by real processes, killed at random moments: nothing is added twice, and a model is always there."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from forked import Forked, wait_until_imported
from test_kill import comparable
from test_pipeline import essence, rows

from nasimb.export import load
from nasimb.extension import earlier_results
from nasimb.rundir import RunDir

pytestmark = pytest.mark.slow

ADDED = ("--budget", "+20trials")


def started(folder: Path, run: Path) -> Forked:
    return Forked(folder, "extend", run, *ADDED)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> tuple[Path, float]:
    """The extended run, and how long that took from the first line of the command to its last."""
    run = shutil.copytree(finished_run, tmp_path_factory.mktemp("undisturbed") / "run")
    wait_until_imported()
    start = time.monotonic()
    process = started(run.parent, run)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return run, time.monotonic() - start


@pytest.mark.parametrize("seed", range(5))
def test_after_sigkills_the_same_command_ends_with_what_was_asked_for(
    tmp_path: Path, finished_run: Path, undisturbed: tuple[Path, float], seed: int
) -> None:
    whole, seconds = undisturbed
    run, rng = shutil.copytree(finished_run, tmp_path / "run"), random.Random(seed)
    shown = 0
    for _ in range(3):
        process = started(run.parent, run)
        time.sleep(rng.uniform(0, 1.1 * seconds))
        process.send_signal(signal.SIGKILL)
        said, _ = process.communicate()
        shown += "model:" in said
        load(run / "best")
        if shown:
            break
    if not shown:
        # With the words or without: as long as an extension is under way they are the same.
        process = started(run.parent, run)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    result = json.loads((run / "result.json").read_text())
    expected = json.loads((whole / "result.json").read_text())
    assert essence(comparable(result)) == essence(comparable(expected))
    assert (result["spend"]["limit"], result["test_reads"]) == ("26trials", 2)
    assert rows(run) == rows(whole)
    assert [one["spend"]["limit"] for one in earlier_results(RunDir(run))] == ["6trials"]
