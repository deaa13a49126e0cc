"""`nasimb status --watch`, on a terminal and without one."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from answers import Command

STATUS = [sys.executable, "-m", "nasimb", "status"]
MOST_SECONDS = 240.0


class Terminal:
    """A process on a pseudo-terminal, and all that it wrote there."""

    def __init__(self, words: list[str], *, columns: int = 100, rows: int = 40) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        # A session with this terminal as its own: then Ctrl-C typed here is the signal.
        preparing = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", preparing, *words], stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True, env={**os.environ, "TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(theirs)
        self.text = ""

    def read_until(self, wanted: str | None) -> None:
        """Until the text has come, or (None) the process has closed the terminal."""
        end = time.monotonic() + MOST_SECONDS
        while wanted is None or wanted not in self.text:
            assert time.monotonic() < end, self.text[-2000:]
            if select.select([self._ours], [], [], 0.5)[0]:
                try:
                    self.text += os.read(self._ours, 65536).decode(errors="replace")
                except OSError:  # nobody has it open any more
                    assert wanted is None, self.text[-2000:]
                    return

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def end(self) -> int:
        self.read_until(None)
        os.close(self._ours)
        return self.process.wait(timeout=60)


def unfinished(finished_run: Path, folder: Path) -> Path:
    shutil.copytree(finished_run, folder)
    (folder / "result.json").unlink()
    return folder


def test_a_finished_run_is_shown_once_and_that_is_all(command: Command, finished_run: Path) -> None:
    found = command("status", finished_run, "--watch")
    assert found.code == 0
    assert found.out == command("status", finished_run).out + "\n"
    assert "\x1b" not in found.out


def test_what_cannot_be_watched_is_refused(command: Command, finished_run: Path) -> None:
    for words, said in (
        (("nowhere", "--watch"), "config.yaml"),
        ((finished_run, "--watch", "--every", "0"), "more than 0"),
        ((finished_run, "--watch", "--every", "nan"), "more than 0"),
        ((finished_run, "--every", "3"), "must come with --watch"),
    ):
        found = command("status", *words)
        assert found.code == 2
        assert said in found.error


def test_on_a_terminal_it_is_a_picture_even_a_narrow_one(finished_run: Path) -> None:
    terminal = Terminal([*STATUS, str(finished_run), "--watch"], columns=40, rows=12)
    assert terminal.end() == 0
    assert "finished" in terminal.text
    assert "▁" in terminal.text
    assert "Traceback" not in terminal.text
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l"), "the cursor is back"


def test_ctrl_c_ends_it_well(finished_run: Path, tmp_path: Path) -> None:
    folder = unfinished(finished_run, tmp_path / "run")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    terminal = Terminal([*STATUS, str(folder), "--watch", "--every", "0.2"])
    terminal.read_until("not running")
    terminal.type("\x03")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.text
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_signals_end_it_without_a_terminal_too(finished_run: Path, tmp_path: Path, number: int, code: int) -> None:
    folder = unfinished(finished_run, tmp_path / "run")
    words = [*STATUS, str(folder), "--watch"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("run: not finished")
        process.send_signal(number)
        assert process.wait(timeout=30) == code
        assert process.stderr.read() == ""


def test_a_run_removed_while_it_is_watched_is_said_to_be_gone(finished_run: Path, tmp_path: Path) -> None:
    folder = unfinished(finished_run, tmp_path / "run")
    terminal = Terminal([*STATUS, str(folder), "--watch", "--every", "0.2"])
    terminal.read_until("not running")
    shutil.rmtree(folder)
    assert terminal.end() == 1
    assert "which was removed" in terminal.text
    assert "Traceback" not in terminal.text


def test_whoever_reads_along_may_leave(finished_run: Path) -> None:
    shell = f"{' '.join(STATUS)} {finished_run} --watch | head -1"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout == "run: finished\n"
    assert done.stderr == ""


@pytest.mark.slow
def test_a_search_is_watched_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["search", "--data", "digits:0-2", "--budget", "4trials", "--set", "training_steps=3", "--run", str(folder)]
    with subprocess.Popen(
        [sys.executable, "-m", "nasimb", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as search:
        end = time.monotonic() + MOST_SECONDS
        while not (folder / "config.yaml").exists():
            assert search.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        terminal = Terminal([*STATUS, str(folder), "--watch", "--every", "0.2"])
        assert terminal.end() == 0
        assert search.wait(timeout=60) == 0
    assert "Traceback" not in terminal.text
    text = terminal.text
    assert text.count("budget") > 5, "it was drawn again and again"
    assert any(phase in text for phase in ("prepare", "supernet", "search", "head")), "under way"
    first, last = text.index("run"), text.rindex("finished: ")
    assert first < last
    assert "4 finished" in text
    assert "balanced accuracy on the test split" in text
