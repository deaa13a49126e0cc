"""Commands as processes: what they said, and that none is left behind."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from nasimb.bench.process import run_command


def test_exit_code_and_last_line(tmp_path: Path) -> None:
    ticks: list[None] = []
    code, said = run_command(["search", "--budget", "soon"], tmp_path / "log", lambda: ticks.append(None))
    assert code == 2
    assert said.startswith("nasimb: a budget must be")
    assert said in (tmp_path / "log").read_text()
    assert ticks


def test_what_a_tick_raises_ends_the_command(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_command(["search", "--run", str(tmp_path / "run")], tmp_path / "log", stop)
    assert time.monotonic() - start < 20
    assert not [child for child in psutil.Process().children() if "nasimb" in child.cmdline()]
