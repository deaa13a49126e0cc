"""`nasimb` in real processes, forked from one that has imported torch already: imports would be most of such a test."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["nasimb.pipeline", "nasimb.report.show"])


def command(words: Sequence[str], out: Path, errors: Path, environment: dict[str, str]) -> None:
    """In a process of its own: the `nasimb` command, with one thread."""
    os.setsid()
    os.environ.update(environment)
    import torch

    from nasimb.cli.main import main

    torch.set_num_threads(1)
    for number, path in ((1, out), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["nasimb", *words]
    main()


def wait_until_imported() -> None:
    """The first process waits for the imports that all others share."""
    process = CONTEXT.Process(target=os.getpid)
    process.start()
    process.join()


class Forked:
    """`nasimb WORDS`, with what tests use of `subprocess.Popen`; what it says goes to files below `folder`."""

    def __init__(self, folder: Path, *words: object, **environment: str) -> None:
        wait_until_imported()
        said = Path(tempfile.mkdtemp(prefix="said-", dir=folder))
        self.out, self.errors = said / "out", said / "errors"
        arguments = (list(map(str, words)), self.out, self.errors, environment)
        self._process = CONTEXT.Process(target=command, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def join(self, timeout: float) -> None:
        """Wait for the end, or for so many seconds."""
        self._process.join(timeout)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; stdout and stderr."""
        self.wait(timeout)
        out, errors = (file.read_text() if file.exists() else "" for file in (self.out, self.errors))
        return out, errors

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
