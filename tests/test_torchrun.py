"""Real torchrun, two processes, real signals: the curve of one process, one voice, one account, no step done twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny_run import SPACE

from nasimb.ledger import clock_seconds, kind_seconds, read_account
from nasimb.supernet.checkpoint import load_supernet
from nasimb.supernet.ranks import ONE_PROCESS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "supernet" / "two_ranks.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
LIMIT = 16.0
"""Seconds on the clock, for two threads."""


def start(words: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, errors = process.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, errors


def train_words(tmp_path: Path, *more: str) -> list[str]:
    """`-m nasimb supernet train` on the tiny space, into tmp_path/net."""
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    options = {"source": "digits", "space": space, "budget": f"{2 * LIMIT}cpu-s", "device": "cpu",
               "out": tmp_path / "net"}  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["-m", "nasimb", "supernet", "train", *words, "--set", "batch_size=16", "--set", "precision=float32", *more]


def process_of_rank(launcher: subprocess.Popen[str], rank: int) -> int:
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    (found,) = [int(child) for child in children if f"RANK={rank}" in environment_of(child)]
    return found


def environment_of(process: str) -> list[str]:
    return Path(f"/proc/{process}/environ").read_text().split("\0")


def snapshot_of(folder: Path) -> int:
    """Steps done in the last snapshot; 0 without one."""
    if not (folder / "training.safetensors").exists():
        return 0
    with safe_open(folder / "training.safetensors", framework="pt") as file:
        return int(json.loads(file.metadata()["training"])["steps_done"])


def wait_for(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


def steps_shown(errors: str) -> list[int]:
    return [int(number) for number in re.findall(r"^training .* step (\d+)$", errors, re.MULTILINE)]


def said_by_nasimb(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("nasimb: ")]


def check_account(folder: Path) -> None:
    """Two threads at every moment, and no more of them than the budget has."""
    account = read_account(folder / "ledger.jsonl")
    assert {(charge.gpus, charge.threads) for charge in account} == {(0, 2)}
    on_the_clock = sum(clock_seconds(account).values())
    assert kind_seconds(account, "cpu") == pytest.approx(2 * on_the_clock)
    assert 0.95 * LIMIT <= on_the_clock <= LIMIT + 1


def test_the_curve_is_that_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 steps: with sync_bn of one process with the same batch, without it of one with accumulation 2."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import two_ranks

    code, _, errors = ended(start([*TORCHRUN, str(SCRIPT), str(tmp_path)]))
    assert code == 0, errors
    first, last = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, options in {"common statistics": {}, "own statistics": {"accumulation": 2}}.items():
        one: dict[str, Any] = two_ranks.curve(ONE_PROCESS, **options)
        assert len(one["losses"]) == 24
        assert one["losses"][-6:].mean() < one["losses"][:6].mean() - 0.05
        for key, tensor in one.items():
            torch.testing.assert_close(first[name][key], tensor, rtol=1e-5, atol=1e-5, msg=f"{name} {key}")
            assert torch.equal(first[name][key], last[name][key])


def test_the_same_command_under_torchrun(tmp_path: Path) -> None:
    code, out, errors = ended(start([*TORCHRUN, *train_words(tmp_path)]))
    assert code == 0, errors
    told, following = out.splitlines()
    assert re.fullmatch(rf"{tmp_path}/net: \d+ steps on digits, last loss [\d.]+", told)
    assert following.startswith("nasimb search --supernet")
    shown = steps_shown(errors)
    assert shown[0] == 1
    assert len(set(shown)) == len(shown)
    check_account(tmp_path / "net")
    _, info = load_supernet(tmp_path / "net")
    assert info["processes"] == 2
    assert info["steps"] > shown[-1] - 1
    left = {file.name for file in (tmp_path / "net").iterdir() if not file.name.startswith(".")}
    assert left == {
        "calibration.safetensors", "config.yaml", "environment.json", "ledger.jsonl", "ledger.mark", "probe.json",
        "splits.json", "supernet.json", "supernet.safetensors",
    }  # fmt: skip
    code, again, errors = ended(start([*TORCHRUN, *train_words(tmp_path)]))
    assert (code, again) == (0, out), errors


def test_what_is_wrong_is_said_once_and_leaves_nothing(tmp_path: Path) -> None:
    code, out, errors = ended(start([*TORCHRUN, *train_words(tmp_path, "--budget", "2cpu-s")]))
    assert (code, out) == (1, "")  # torchrun's own code
    (said,) = said_by_nasimb(errors)
    assert "the budget must buy a trained super-network; got 2cpu-s, that is 1 s here" in said
    assert errors.count("exitcode  : 2") == 2
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_after_sigkill_of_one_process_torchrun_starts_all_again_from_the_last_snapshot(
    tmp_path: Path, rank: int
) -> None:
    folder = tmp_path / "net"
    launcher = start([*TORCHRUN, "--max-restarts", "1", *train_words(tmp_path)])
    wait_for(lambda: snapshot_of(folder) > 20, launcher)
    killed = process_of_rank(launcher, rank)
    saved = snapshot_of(folder)
    os.kill(killed, signal.SIGKILL)
    code, out, errors = ended(launcher)
    assert code == 0, errors
    assert len(out.splitlines()) == 2
    shown = steps_shown(errors)
    assert shown == sorted(set(shown)), "steps were done again"
    assert any(number > saved for number in shown)
    assert load_supernet(folder)[1]["steps"] > saved
    lost = [line for line in said_by_nasimb(errors) if "must live and be reached until its end" in line]
    assert len(lost) == (rank == 1)  # the first speaks, unless it is gone
    check_account(folder)


def test_sigterm_saves_once_and_one_process_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    launcher = start([*TORCHRUN, *train_words(tmp_path)])
    wait_for(lambda: snapshot_of(folder) > 20, launcher)
    asked = time.monotonic()
    launcher.send_signal(signal.SIGTERM)
    code, out, errors = ended(launcher)
    assert time.monotonic() - asked < 10
    assert code != 0
    assert out == ""
    (said,) = said_by_nasimb(errors)
    assert "signal 15; everything finished so far is saved. Give the same command again" in said
    saved = snapshot_of(folder)
    spent = kind_seconds(read_account(folder / "ledger.jsonl"), "cpu")
    code, out, errors = ended(start([sys.executable, *train_words(tmp_path)]))
    assert code == 0, errors
    assert steps_shown(errors)[0] == saved + 1
    info = load_supernet(folder)[1]
    assert info["processes"] == 1
    account = read_account(folder / "ledger.jsonl")
    assert {charge.threads for charge in account} == {1, 2}
    assert spent < kind_seconds(account, "cpu") <= 2 * LIMIT + 1
    assert kind_seconds(account, "cpu") >= 0.95 * 2 * LIMIT


def test_sigterm_to_one_process_stops_all_with_the_code_of_a_signal(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    launcher = start([*TORCHRUN, *train_words(tmp_path)])
    wait_for(lambda: snapshot_of(folder) > 20, launcher)
    os.kill(process_of_rank(launcher, 1), signal.SIGTERM)
    code, out, errors = ended(launcher)
    assert code != 0
    assert out == ""
    assert errors.count("exitcode  : 143") == 2
    assert len(said_by_nasimb(errors)) == 1
    assert snapshot_of(folder) > 20
