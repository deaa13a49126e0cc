"""The digits run, stopped at random moments of every phase, again and again: it ends, within its budget, whole.

Processes are real and so are the signals. They are forked from one that has imported torch already, or most of the
test would be imports. `NASIMB_STOPS=40` stops as often as the promise was measured with; the default is less.
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
from nasimb.errors import ResumeError
from nasimb.ledger import clock_seconds, read_account

pytestmark = pytest.mark.slow

STOPS = int(os.environ.get("NASIMB_STOPS", "16"))
STOPS_A_RUN, BUDGET_SECONDS = 8, 40
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["nasimb.pipeline", "nasimb.report.show", "nasimb.cli.main", "sklearn.datasets"])


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


def endure(folder: Path, seed: int, number: signal.Signals, stops: int) -> list[Stopped]:
    """One run, stopped at random points of its budget; asserts what must hold after each and in the end."""
    draw, run, errors = random.Random(seed), folder / "run", folder / "errors"
    folder.mkdir()
    moments = sorted(draw.uniform(0.2, BUDGET_SECONDS - 1) for _ in range(stops))
    words = ["search", "--budget", f"{BUDGET_SECONDS}s", "--seed", str(seed), "--run", str(run), "--device", "cpu"]
    seen: list[Stopped] = []
    while not (run / "result.json").exists():
        before, rows_before = spent(run), rows_of(run)
        process = CONTEXT.Process(target=command, args=(words, errors))
        process.start()
        started = None
        # One that the last stop overran comes at once, a moment into whatever is under way.
        while process.exitcode is None and moments and spent(run) < max(moments[0], before + draw.uniform(0.1, 0.6)):
            if started is None and spent(run) > before:
                started = time.monotonic() - (spent(run) - before)
            process.join(0.02)
        if process.exitcode is None and moments:
            moments.pop(0)
            asked = time.monotonic()
            assert process.pid is not None
            os.kill(process.pid, number)
            process.join(30)
            ran = asked - (started or asked)
            phase = list(read_account(run / "ledger.jsonl"))[-1].phase
            unaccounted = ran - (spent(run) - before)
            seen.append(Stopped(phase, unaccounted, time.monotonic() - asked, process.exitcode))
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
    waiting = os.getloadavg()[0]
    runs = -(-STOPS // STOPS_A_RUN)
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(endure, tmp_path / str(seed), seed, number, min(STOPS_A_RUN, STOPS)) for seed in range(runs)
        ]
        seen = [stop for future in futures for stop in future.result()]
    figures = []
    for seed in range(runs):
        result = json.loads((tmp_path / str(seed) / "run" / "result.json").read_text())
        figures.append(result["spend"]["spent_seconds"])
    text = (
        f"{number.name}: {len(seen)} stops over {dict(Counter(stop.phase for stop in seen))}; spent {figures} of "
        f"{BUDGET_SECONDS} s; unaccounted at most {max(stop.unaccounted for stop in seen):.2f} s; load {waiting:.1f}"
    )
    print(text)
    if waiting > 1.5 * (os.cpu_count() or 1):
        pytest.skip(f"the machine is too busy to measure on. {text}")
    assert len(seen) >= 0.5 * STOPS, text  # a run that was stopped keeps time, and may end before its last moments come
    assert all(figure <= 1.01 * BUDGET_SECONDS for figure in figures), text
    assert all(stop.unaccounted <= 5 for stop in seen), text
    if number == signal.SIGTERM:
        assert all(stop.code == 143 for stop in seen)
        assert all(stop.seconds <= 5 for stop in seen)
        assert all(stop.unaccounted <= 0.5 for stop in seen), text
