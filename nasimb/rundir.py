"""The run folder: everything a run writes, each file either whole or absent.

```
RUN/config.yaml       the whole configuration; the identity a resumed run is compared with
RUN/environment.json  versions, device, command
RUN/splits.json       class list and image positions of every split; there once everything asked for was checked
RUN/probe.json        seconds of the units of work, measured before a run with a time limit
RUN/ledger.jsonl      spend, and RUN/ledger.mark to restore it from (nasimb.ledger)
RUN/trials.csv        one row a trial
RUN/heads.jsonl       one row a head tried on a finalist
RUN/study.journal     Optuna's journal
RUN/exchange.json     name of the run in the storage where its processes meet
RUN/work.journal      that storage, where no other is named
RUN/workers/          what workers started with the search said
RUN/answers/          what workers found while the storage was away
RUN/refit/            large refits under way and done; removed at the end
RUN/supernet/         the trained super-network and the state its training resumes from
RUN/best/             the winner (nasimb.load)
RUN/result.json       the answer (schema 1)
RUN/extensions.json   what the run was given beyond its first budget (nasimb.extension), and what it had found before
```
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from nasimb.errors import InputError, ResumeError
from nasimb.secrets import command_without_passwords
from nasimb.spec import read_yaml

TRIAL_COLUMNS = (
    "number", "state", "kind", "score", "screen_score", "balanced_accuracy", "many", "medium", "few", "worst_recall",
    "balanced_loss", "head", "setting", "tau", "macs", "params", "seconds", "device", "seed", "resolution", "depths",
    "widths", "kernel_sizes", "norms", "taps", "calibration", "cached_from", "worker", "attempt", "reason",
)  # fmt: skip


class RunDir:
    """Paths and atomic writes of one run folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def ledger(self) -> Path:
        """Where the ledger is."""
        return self.path / "ledger.jsonl"

    @property
    def journal(self) -> Path:
        """Where Optuna's journal is."""
        return self.path / "study.journal"

    @property
    def supernet(self) -> Path:
        """Folder of the super-network."""
        return self.path / "supernet"

    @property
    def best(self) -> Path:
        """Folder of the winner."""
        return self.path / "best"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder alone: two processes in one run would count and write everything twice.

        Where no run has begun in the end, the lock and the folders made for it are removed again.

        Raises:
            ResumeError: another live process holds it. (A killed one holds nothing.)
            InputError: the folder cannot be made or written.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise ResumeError(
                "a run folder belongs to one process at a time",
                got=f"{self.path}, which is in use",
                do="Wait for the other run, or give this one its own folder with --run.",
            ) from None
        except OSError as error:
            raise InputError(
                "the run folder must be writable", got=f"{self.path}: {error}", do="Choose another with --run."
            ) from None
        try:
            yield
        finally:
            if not (self.path / "config.yaml").exists():
                # While the lock is held: whoever comes later makes a new one.
                (self.path / ".lock").unlink(missing_ok=True)
                _remove_empty(made)
            lock.release()

    def open_with(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> bool:
        """Start the run, or continue it: True where something is there already.

        Raises:
            ResumeError: the folder holds a run with another configuration; names every key that differs.
        """
        file = self.path / "config.yaml"
        if not file.exists():
            stray = [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]
            if stray:
                raise ResumeError(
                    "a new run needs an empty folder", got=f"{self.path} holding {stray[0]}", do="Choose another --run."
                )
            self.write_text("config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
            self.write_json("environment.json", environment)
            return False
        differences = list(_differences(self.config(), config))
        if differences:
            raise ResumeError(
                f"{self.path} must be continued with its own configuration",
                got="; ".join(f"{key}: {new!r} instead of {old!r}" for key, old, new in differences),
                do="Use the same options, or another folder with --run.",
            )
        self._repair()
        return True

    def discard(self) -> None:
        """Remove a run that was refused before it began, so that nothing of it stands in the way of the next."""
        made = "environment.json", "splits.json", "probe.json", "ledger.jsonl", "ledger.mark", "extensions.json"
        for name in (*made, "config.yaml"):
            (self.path / name).unlink(missing_ok=True)

    def config(self) -> dict[str, Any]:
        """The configuration the run was started with."""
        file = self.path / "config.yaml"
        if not file.is_file():
            do = "Name a folder that a search has written."
            raise InputError("a run folder must hold config.yaml", got=str(self.path), do=do)
        return read_yaml(file)

    def write_text(self, name: str, text: str) -> None:
        """Replace a file atomically: readers see the old one or the new one."""
        part = self.path / f".{name}.part"
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path / name)

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """`write_text` of readable JSON; NaN is refused, since JSON has none."""
        self.write_text(name, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder, or None where it is not written yet."""
        file = self.path / name
        if not file.exists():
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ResumeError(f"{file} must be valid JSON", got=error, do="Restore or delete it.") from None
        assert isinstance(found, dict)
        return found

    def append_trials(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add lines to trials.csv, durably and with one write."""
        file = self.path / "trials.csv"
        header = [] if file.exists() and file.stat().st_size else [",".join(TRIAL_COLUMNS)]
        lines = [_csv_line([cell_of(row.get(column)) for column in TRIAL_COLUMNS]) for row in rows]
        self._append("trials.csv", [*header, *lines])

    def replace_trials(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write trials.csv anew, atomically: what a row says may grow, its place does not change."""
        lines = [_csv_line([cell_of(row.get(column)) for column in TRIAL_COLUMNS]) for row in rows]
        self.write_text("trials.csv", "".join(line + "\n" for line in [",".join(TRIAL_COLUMNS), *lines]))

    def read_trials(self) -> list[dict[str, str]]:
        """The rows of trials.csv as text; a last line torn by a kill is left out."""
        lines = self._complete_lines("trials.csv")
        rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
        if (lines and tuple(lines[0].split(",")) != TRIAL_COLUMNS) or any(None in row.values() for row in rows):
            raise ResumeError(
                f"{self.path / 'trials.csv'} must have the columns of this version", got=lines[0][:80], do="Restore it."
            )
        return rows

    def append_line(self, name: str, values: Mapping[str, Any]) -> None:
        """Add one JSON line, durably."""
        self._append(name, [json.dumps(values, allow_nan=False)])

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines of a file; a torn last one is left out."""
        found = []
        for number, line in enumerate(self._complete_lines(name), start=1):
            try:
                found.append(json.loads(line))
            except ValueError:
                raise ResumeError(
                    f"every line of {self.path / name} must be JSON",
                    got=f"line {number}: {line[:60]!r}",
                    do="Restore it.",
                ) from None
        return found

    def _append(self, name: str, lines: Sequence[str]) -> None:
        append_whole(self.path / name, "".join(line + "\n" for line in lines).encode())

    def _complete_lines(self, name: str) -> list[str]:
        file = self.path / name
        if not file.exists():
            return []
        data = file.read_bytes()
        return data[: data.rfind(b"\n") + 1].decode("utf-8").splitlines()

    def _repair(self) -> None:
        """Cut off last lines that a kill tore, so that the next one starts on a line of its own."""
        for file in (self.path / "trials.csv", self.path / "heads.jsonl", self.journal):
            if file.exists():
                data = file.read_bytes()
                whole = data.rfind(b"\n") + 1
                if whole < len(data):
                    os.truncate(file, whole)


def append_whole(path: Path, data: bytes) -> None:
    """Append bytes and flush them to the disk; where that fails (a full disk), the file is as it was before.

    Raises:
        OSError: it failed.
    """
    with path.open("ab") as file:
        end = file.tell()
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, end)
            raise


def _remove_empty(folders: Sequence[Path]) -> None:
    """Innermost first; stops at the first that holds something."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def environment(device: str, command: Sequence[str]) -> dict[str, Any]:
    """What a reader needs to run it again: versions, machine, command line."""
    names = ("nasimb", "torch", "torchvision", "optuna", "pandas", "numpy", "scipy", "scikit-learn", "pillow")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "command": [Path(command[0]).name, *command_without_passwords(command[1:])] if command else [],
        "commit": _commit(),
        "device": device,
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu_count": os.cpu_count(),
        "executable": Path(sys.executable).name,
        "versions": versions,
    }


def _commit() -> str | None:
    """The commit of the checkout that runs; None for an installed package."""
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    asked = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, object, object]]:
    """Dotted keys whose values differ, with both values."""
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b


def cell_of(value: object) -> str:
    """A value as a cell of trials.csv: lists as 1-2-3, floats with all their digits, None empty."""
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return "-".join(map(str, value))
    return repr(value) if isinstance(value, float) else str(value)


def _csv_line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue().replace("\n", " ")
