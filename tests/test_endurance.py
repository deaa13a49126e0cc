"""The digits run, stopped at random moments of every phase, again and again: it ends, within its budget, whole.

Processes are real and so are the signals. `NASIMB_STOPS=8` stops less often, for a quick look.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from forked import Forked, wait_until_imported

import nasimb
from nasimb.display import LABELS
from nasimb.errors import ResumeError
from nasimb.ledger import clock_seconds, read_account

pytestmark = pytest.mark.slow

STOPS = int(os.environ.get("NASIMB_STOPS", "40"))
STOPS_A_RUN, BUDGET_SECONDS = 14, 30
SPACE = """\
backbone: resnet
stem_width: 8
resolutions: [8, 10]
stages:
  - {depths: [1, 2], widths: [8, 12, 16], kernel_sizes: [3, 5], norms: [bn, nbn], stride: 1}
  - {depths: [1, 2], widths: [16, 24, 32], kernel_sizes: [3, 5], norms: [bn, nbn], stride: 2}
taps: [1, 2]
"""
PHASES = {"prepare": 0.05, "supernet": 2.0, "head": 0.5, "search": 1.0, "head again": 0.3, "evaluate": 0.3}
"""In the order of a run, each with the seconds in it within which it is stopped; heads are fitted twice."""
ALWAYS = ("prepare", "supernet", "search", "head again", "evaluate")


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

    def __init__(self) -> None:
        self._searched = False

    def phase(self, errors: Path) -> str | None:
        """The phase that a process named last."""
        if not errors.exists():
            return None
        found = None
        for line in errors.read_bytes().decode(errors="replace").splitlines():
            found = next((phase for phase, label in LABELS.items() if line.startswith(label)), found)
            self._searched |= found == "search"
        return "head again" if found == "head" and self._searched else found


def endure(folder: Path, seed: int, number: signal.Signals, stops: int) -> list[Stopped]:
    """One run, stopped in phase after phase; asserts what must hold after each stop and in the end."""
    draw, run = random.Random(seed), folder / "run"
    folder.mkdir()
    space = folder / "space.yaml"
    space.write_text(SPACE)
    said, order = Said(), list(PHASES)
    asked = sorted([*ALWAYS, *draw.choices(order, k=stops)][:stops], key=order.index)
    words = ["search", "--budget", f"{BUDGET_SECONDS}s", "--seed", str(seed), "--run", str(run), "--device", "cpu"]
    words += ["--space", str(space), "--set", "heads.folds=3", "--set", "heads.finalists=[balanced_softmax, gda]"]
    seen: list[Stopped] = []
    while not (run / "result.json").exists():
        before, rows_before = spent(run), rows_of(run)
        start = time.monotonic()
        process = Forked(folder, *words)
        phase = None
        while asked and process.poll() is None:
            phase = said.phase(process.errors)
            if phase is not None and order.index(phase) >= order.index(asked[0]):
                process.join(draw.uniform(0.0, PHASES[asked[0]]))
                break
            process.join(0.01)
        if process.poll() is None and asked:
            asked.pop(0)
            phase = said.phase(process.errors)
            at = time.monotonic()
            process.send_signal(number)
            process.join(30)
            unaccounted = at - start - (spent(run) - before)
            if process.poll() == 0:  # it was through before the signal came: no stop
                assert (run / "result.json").exists(), process.errors.read_text()[-2000:]
            else:
                seen.append(Stopped(str(phase), unaccounted, time.monotonic() - at, process.poll()))
        else:
            process.join(120)
            assert process.poll() == 0, process.errors.read_text()[-2000:]
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
    assert not [file for file in folder.glob("said-*/errors") if "Traceback" in file.read_text()]
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
    wait_until_imported()
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
