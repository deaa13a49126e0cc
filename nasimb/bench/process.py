"""Commands of nasimb, each a process of its own as a user would start it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

POLL_SECONDS = 0.05


def run_command(words: Sequence[str], log: Path, tick: Callable[[], None]) -> tuple[int, str]:
    """`nasimb WORDS` to its end: its exit code, and the last line that it said.

    Args:
        log: takes all that it says.
        tick: called while it runs; what that raises ends it.
    """
    command = [sys.executable, "-m", "nasimb", *words]
    with log.open("wb") as file, _started(command, file) as process:
        while process.poll() is None:
            tick()
            time.sleep(POLL_SECONDS)
    return process.returncode, log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]


@contextmanager
def _started(command: Sequence[str], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()
