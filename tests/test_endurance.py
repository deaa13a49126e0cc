"""The digits run, stopped at random moments of every phase, again and again: it ends, within its budget, whole.

Processes are real and so are the signals. They are forked from one that has imported torch already, or most of the
test would be imports. `NASIMB_STOPS=8` stops less often, for a quick look.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

import nasimb
from nasimb.display import LABELS
from nasimb.errors import ResumeError
from nasimb.ledger import clock_seconds, read_account

pytestmark = pytest.mark.slow

STOPS = int(os.environ.get("NASIMB_STOPS", "40"))
STOPS_A_RUN, BUDGET_SECONDS = 8, 45
PHASES = {"prepare": 0.05, "supernet": 5.0, "head": 1.0, "search": 3.0, "head again": 2.0, "evaluate": 0.8}
"""In the order of a run, each with the seconds in it within which it is stopped; heads are fitted twice."""
ALWAYS = ("prepare", "supernet", "search", "head again", "evaluate")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["nasimb.pipeline", "nasimb.report.show"])


def command(words: Sequence[str], errors: Path) -> None:
    """In a process of its own: the `nasimb` command."""
    import torch

    from nasimb.cli.main import main

    torch.set_num_threads(1)
    file = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["nasimb", *words]
    main()


def spent(run: Path) -> float:
    try:
        return sum(clock_seconds(read_account(run / "ledger.jsonl")).values())
    except ResumeError:
        return 0.0  # read between a line and its mark


class Stopped(NamedTuple):
    """What was seen of one stop; `unaccounted` are seconds, and so is what it took to end."""

    phase: str
    unaccounted: float
    seconds: float
    code: int | None


class Said:
    """What the processes of a run say of their phase, each line as it comes."""

    def __init__(self, errors: Path) -> None:
        self._errors, self._searched = errors, False

    def phase(self, since: int) -> str | None:
        """The phase that was named last after so many bytes."""
        if not self._errors.exists():
            return None
        found = None
        for line in self._errors.read_bytes()[since:].decode(errors="replace").splitlines():
            found = next((phase for phase, label in LABELS.items() if line.startswith(label)), found)
            self._searched |= found == "search"
        return "head again" if found == "head" and self._searched else found


def endure(folder: Path, seed: int, number: signal.Signals, stops: int) -> list[Stopped]:
    """One run, stopped in phase after phase; asserts what must hold after each stop and in the end."""
    draw, run, errors = random.Random(seed), folder / "run", folder / "errors"
    folder.mkdir()
    said, order = Said(errors), list(PHASES)
    asked = sorted([*ALWAYS, *draw.choices(order, k=stops)][:stops], key=order.index)
    words = ["search", "--budget", f"{BUDGET_SECONDS}s", "--seed", str(seed), "--run", str(run), "--device", "cpu"]
    seen: list[Stopped] = []
    while not (run / "result.json").exists():
        before, rows_before = spent(run), rows_of(run)
        since = errors.stat().st_size if errors.exists() else 0
        start = time.monotonic()
        process = CONTEXT.Process(target=command, args=(words, errors))
        process.start()
        phase = None
        while asked and process.exitcode is None:
            phase = said.phase(since)
            if phase is not None and order.index(phase) >= order.index(asked[0]):
                process.join(draw.uniform(0.0, PHASES[asked[0]]))
                break
            process.join(0.01)
        if process.exitcode is None and asked:
            asked.pop(0)
            phase = said.phase(since)
            at = time.monotonic()
            assert process.pid is not None
            os.kill(process.pid, number)
            process.join(30)
            unaccounted = at - start - (spent(run) - before)
            if process.exitcode == 0:  # it was through before the signal came: no stop
                assert (run / "result.json").exists(), errors.read_text()[-2000:]
            else:
                seen.append(Stopped(str(phase), unaccounted, time.monotonic() - at, process.exitcode))
        else:
            process.join(120)
            assert process.exitcode == 0, errors.read_text()[-2000:]
        rows = rows_of(run)
        assert [row["number"] for row in rows] == [str(position) for position in range(len(rows))]
        # Promotion may fill a row in; which candidate it is about never changes.
        assert [row["depths"] + row["widths"] for row in rows[: len(rows_before)]] == [
            row["depths"] + row["widths"] for row in rows_before
        ]
        if (run / "best" / "model.json").exists():
            nasimb.load(run / "best")
    assert (run / "best" / "model.json").exists()
    scored = [row for row in rows_of(run) if row["state"] in ("finished", "screened")]
    names = ("resolution", "depths", "widths", "kernel_sizes", "norms", "taps")
    assert max(Counter(tuple(row[name] for name in names) for row in scored).values()) == 1
    assert "Traceback" not in errors.read_text()
    return seen


def rows_of(run: Path) -> list[dict[str, str]]:
    file = run / "trials.csv"
    if not file.exists():
        return []
    whole = file.read_text().rpartition("\n")[0].splitlines()
    return list(csv.DictReader(whole))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
@pytest.mark.timeout(1200)
def test_a_run_stopped_again_and_again_ends_within_its_budget(tmp_path: Path, number: signal.Signals) -> None:
    runs = -(-STOPS // STOPS_A_RUN)
    first = CONTEXT.Process(target=os.getpid)  # until the others' imports are there
    first.start()
    first.join()
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(endure, tmp_path / str(seed), seed, number, min(STOPS_A_RUN, STOPS)) for seed in range(runs)
        ]
        seen = [stop for future in futures for stop in future.result()]
    while len(seen) < STOPS:  # a run may have ended before its last moment came
        seen += endure(tmp_path / str(runs), runs, number, STOPS - len(seen))
        runs += 1
    figures = []
    for seed in range(runs):
        result = json.loads((tmp_path / str(seed) / "run" / "result.json").read_text())
        figures.append(result["spend"]["spent_seconds"])
    print(
        f"{number.name}: {len(seen)} stops over {dict(Counter(stop.phase for stop in seen))}; spent {figures} of "
        f"{BUDGET_SECONDS} s; unaccounted at most {max(stop.unaccounted for stop in seen):.2f} s; ended within "
        f"{max(stop.seconds for stop in seen):.2f} s"
    )
    assert len(seen) >= STOPS
    assert {stop.phase for stop in seen} >= set(ALWAYS)
    assert max(figures) <= 1.01 * BUDGET_SECONDS
    if number == signal.SIGKILL:
        assert max(stop.unaccounted for stop in seen) <= 5
    else:
        assert max(stop.seconds for stop in seen) <= 5
        assert max(stop.unaccounted for stop in seen) <= 1  # until the command is parsed, and after the last line
        assert {stop.code for stop in seen} == {143}
