"""Several real processes on one search: killed, cut off from their storage, joined from elsewhere, over PostgreSQL."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from forked import Forked
from postgres import PASSWORD, Postgres
from tiny_run import ASSIGNED, DATA

from nasimb.ledger import read_account

pytestmark = pytest.mark.slow

KILLED = 10
ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def start(run: Path, *words: str, budget: str, **environment: str) -> Forked:
    """`nasimb search` on the digits, with a super-network that is hardly trained."""
    config = run.parent / "config.yaml"
    config.write_text(json.dumps({"data": {**DATA, "target_per_class": 60}, "budget": budget, "device": "cpu"}))
    more = [*ASSIGNED, "imbalance_factor=2", "calibration_images=120"]
    assigned = [word for text in more for word in ("--set", text)]
    options = ("--config", config, "--run", run, *assigned, *words)
    return Forked(run.parent, "search", *options, OMP_NUM_THREADS="1", **environment)


def workers_of(process: Forked) -> list[psutil.Process]:
    try:
        return [child for child in psutil.Process(process.pid).children() if is_alive(child)]
    except psutil.NoSuchProcess:
        return []


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def at_work(run: Path, process: Forked) -> list[psutil.Process]:
    """Workers that have answered: a test that kills nothing but beginners would say little."""
    names = " ".join({row["worker"] for row in rows_of(run)})
    return [child for child in workers_of(process) if f"-{child.pid}-" in names]


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def rows_of(run: Path) -> list[dict[str, str]]:
    file = run / "trials.csv"
    return list(csv.DictReader(file.open())) if file.exists() else []


def candidate_of(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("resolution", "depths", "widths", "kernel_sizes", "norms", "taps"))


def check_exact(run: Path, trials: int) -> list[dict[str, str]]:
    """Exactly so many scored, in order, each candidate once."""
    rows = rows_of(run)
    assert [int(row["number"]) for row in rows] == list(range(len(rows)))
    scored = [row for row in rows if row["state"] == "finished"]
    assert len(scored) == trials
    assert max(Counter(map(candidate_of, scored)).values()) == 1
    return scored


def finished(process: Forked, seconds: float = 240) -> tuple[str, str]:
    out, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return out, errors


def test_ten_workers_die_on_postgresql_and_200_trials_are_exact(tmp_path: Path, postgres: Postgres) -> None:
    run, draw, killed = tmp_path / "run", random.Random(0), 0
    space = tmp_path / "slow.yaml"  # larger images, so that trials take long enough for ten to die among them
    space.write_text((ROOT / "search_spaces" / "digits-resnet.yaml").read_text().replace("[8, 10, 12]", "[36, 40]"))
    words = ("--workers", "4", "--space", str(space))
    process = start(run, *words, budget="200trials", NASIMB_STORAGE=postgres.address)
    command_lines: list[str] = []
    deadline = time.monotonic() + 280
    while process.poll() is None and killed < KILLED and time.monotonic() < deadline:
        time.sleep(1.5)
        command_lines += [command_line(child) for child in workers_of(process)]
        busy = at_work(run, process)
        if busy and len(rows_of(run)) < 190:
            with suppress(psutil.NoSuchProcess):  # the last units may be done meanwhile
                draw.choice(busy).send_signal(signal.SIGKILL)
                killed += 1
    out, errors = finished(process)
    scored = check_exact(run, 200)
    assert killed == KILLED, errors
    assert errors.count("died (SIGKILL)") == KILLED
    assert len({row["worker"] for row in scored}) > 4
    assert {row["attempt"] for row in rows_of(run)} == {"1", "2"}  # what was begun once more says so
    account = read_account(run / "ledger.jsonl")
    assert sum(charge.worker != "main" for charge in account) >= 4
    for text in (out, errors, *command_lines, *(file.read_bytes().decode("latin-1") for file in files_of(run))):
        assert PASSWORD not in text


def files_of(run: Path) -> list[Path]:
    return [file for file in run.rglob("*") if file.is_file()]


def test_a_storage_away_for_20_seconds_costs_nothing_but_time(tmp_path: Path, postgres: Postgres) -> None:
    run = tmp_path / "run"
    process = start(run, "--workers", "2", "--storage", postgres.address, budget="120trials")
    wait_for(lambda: len(rows_of(run)) >= 10, process)
    postgres.stop()
    time.sleep(20)
    assert process.poll() is None
    postgres.start()
    _, errors = finished(process)
    check_exact(run, 120)
    for text in (errors, *(file.read_bytes().decode("latin-1") for file in files_of(run))):
        assert PASSWORD not in text  # not even that of a command line


def test_workers_join_a_running_search_through_its_folder_and_leave_when_it_is_gone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, budget="5000trials")
    wait_for(lambda: len(rows_of(run)) >= 2, process)
    command = [sys.executable, "-m", "nasimb", "worker", str(run), "--device", "cpu", "--patience", "4s"]
    joined = [subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) for _ in range(2)]

    def everybody_works() -> bool:
        rows = rows_of(run)
        return len({row["worker"] for row in rows}) == 3 and rows[-1]["worker"] == "" and len(rows) > 50

    wait_for(everybody_works, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    said = [worker.communicate(timeout=40)[1] for worker in joined]
    assert [worker.returncode for worker in joined] == [0, 0], said
    assert all("has not been heard for 4 s" in text for text in said)
    check_exact(run, sum(row["state"] == "finished" for row in rows_of(run)))


def test_a_killed_search_goes_on_with_what_its_workers_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, "--workers", "2", budget="120trials")
    wait_for(lambda: len(rows_of(run)) >= 30, process)
    orphans = workers_of(process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    psutil.wait_procs(orphans, timeout=20)
    assert not [orphan for orphan in orphans if is_alive(orphan)]  # nobody is left behind
    before = rows_of(run)
    finished(start(run, "--workers", "2", budget="120trials"))
    scored = check_exact(run, 120)
    assert rows_of(run)[: len(before)] == before
    assert len(scored) == 120


def test_workers_and_owner_spend_one_budget_of_processor_time(tmp_path: Path) -> None:
    run = tmp_path / "run"
    out, _ = finished(start(run, "--workers", "2", "--json", "--set", "supernet_share=0.1", budget="60cpu-s"))
    spend = json.loads(out)["spend"]
    account = read_account(run / "ledger.jsonl")
    total = sum(seconds * charge.threads for charge, seconds in account.items())
    assert spend["cpu_seconds"] == pytest.approx(total, abs=0.01)
    assert 0.85 * 60 <= spend["cpu_seconds"] <= 1.01 * 60
    workers = {charge.worker: seconds for charge, seconds in account.items() if charge.worker != "main"}
    assert len(workers) == 2
    assert all(seconds > 5 for seconds in workers.values())
    assert {row["worker"] for row in rows_of(run)} >= set(workers)


def test_a_budget_too_short_for_workers_is_spent_without_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, "--workers", "2", "--json", budget="18s")
    out, errors = finished(process)
    assert "No worker is started" in errors
    assert 0.8 * 18 <= json.loads(out)["spend"]["spent_seconds"] <= 18.2
    assert {row["worker"] for row in rows_of(run)} == {""}


def test_a_run_on_postgresql_is_not_continued_beside_it(tmp_path: Path, postgres: Postgres) -> None:
    run = tmp_path / "run"
    process = start(run, "--workers", "1", "--storage", postgres.address, budget="200trials")
    wait_for(lambda: len(rows_of(run)) >= 5, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    process.communicate()
    beside = start(run, budget="200trials")
    _, errors = beside.communicate(timeout=60)
    assert beside.returncode == 2
    assert "must go on where its processes met" in errors
    assert PASSWORD not in errors
    finished(start(run, "--storage", postgres.address, budget="200trials"))
    check_exact(run, 200)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_polite_signal_ends_search_and_workers_within_seconds(tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "run"
    process = start(run, "--workers", "2", budget="400trials")
    wait_for(lambda: len(rows_of(run)) >= 20, process)
    workers = workers_of(process)
    asked = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - asked < 5
    assert process.returncode == 128 + number
    assert "Give the same command again" in errors
    psutil.wait_procs(workers, timeout=5)
    assert not [worker for worker in workers if is_alive(worker)]


def wait_for(reached: Callable[[], Any], process: Forked, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    assert reached()
