"""The run folder: everything a run writes, each file either whole or absent, each with a check of what it says.

```
RUN/config.yaml       the whole configuration; the identity a resumed run is compared with
RUN/environment.json  versions, device, command
RUN/splits.json       class list and image positions of every split; there once everything asked for was checked
RUN/probe.json        seconds of the units of work, measured before a run with a time limit
RUN/ledger.jsonl      spend, and RUN/ledger.mark to restore it from (nasimb.ledger)
RUN/trials.csv        one row a trial
RUN/heads.jsonl       one row a head tried on a finalist
RUN/calibrations.jsonl  one row a calibration that the winner's subnet was scored under besides the search
RUN/study.journal     Optuna's journal; while a search goes on it lacks the batch under way (optuna-dashboard opens it)
RUN/exchange.json     name of the run in the storage where its processes meet
RUN/work.journal      that storage, where no other is named
RUN/workers/          what workers started with the search said
RUN/answers/          what workers found while the storage was away
RUN/headcosts.json    what heads and the test cost on this device, measured once
RUN/refit/            last fits and latencies, done and under way; removed at the end
RUN/supernet/         the trained super-network and the state its training resumes from
RUN/best/             the winner (nasimb.load), and which images it has learned from (nasimb.learned)
RUN/retrained/        what nasimb retrain made of it, a folder each
RUN/predictions.csv   every test image: its label, what each model said, how sure the winner was
RUN/classes.json      images by class, and small pictures of the winner's worst mistakes (nasimb.phases.examples)
RUN/result.json       the answer (schema 1)
RUN/extensions.json   what the run was given beyond its first budget (nasimb.extension), and what it had found before
```

What is read is what was written, or it is refused with the file and what to do. A last line that a kill tore is cut off
when the run goes on, and that is said; what it was about is done again.
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from nasimb import seal
from nasimb.durable import append_whole as append_whole
from nasimb.durable import leftovers, replace_whole
from nasimb.errors import InputError, ResumeError
from nasimb.secrets import command_without_passwords
from nasimb.spec import read_yaml
from nasimb.visible import not_utf8

TRIAL_COLUMNS = (
    "number", "state", "kind", "score", "screen_score", "balanced_accuracy", "many", "medium", "few", "worst_recall",
    "balanced_loss", "head", "setting", "tau", "macs", "params", "seconds", "device", "seed", "resolution", "depths",
    "widths", "kernel_sizes", "norms", "taps", "calibration", "cached_from", "worker", "attempt", "failure", "reason",
)  # fmt: skip
"""Of trials.csv; a last one, `check`, is of the other cells."""

HEADER = ",".join([*TRIAL_COLUMNS, seal.KEY])

RESTORE = {
    "environment.json": "Restore it, or delete it: it is then written anew for the versions of today.",
    "result.json": "Restore it, or delete it to have the last phase done again.",
    "trials.csv": "Restore it; or cut it off before that row and delete study.journal, and what is missing is scored "
    "again.",
    "heads.jsonl": "Restore it; or delete that line, and its heads are compared again.",
    "calibrations.jsonl": "Restore it; or delete that line, and its calibration is scored again.",
}
OTHERWISE = "Restore it, or start a new run with --run."
"""What to do with a damaged file."""

__all__ = ["RunDir"]

Warn = Callable[[str], None]
"""Told, in one line, what had to be repaired."""


class RunDir:
    """Paths and atomic writes of one run folder.

    Example:
        >>> run = RunDir(Path("runs/digits"))
        >>> run.read_json("result.json")["trials"]["finished"], [row["kind"] for row in run.read_trials()]
        (2, ['smallest', 'largest'])
    """

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

    @property
    def retrained(self) -> Path:
        """Where what was retrained of it is, a folder each."""
        return self.path / "retrained"

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

    def open_with(
        self, config: Mapping[str, Any], environment: Mapping[str, Any], warn: Warn = lambda line: None
    ) -> bool:
        """Start the run, or continue it: True where something is there already.

        Args:
            warn: told what had to be repaired.

        Raises:
            ResumeError: the folder holds a run with another configuration; names every key that differs. Or a file of
                it is damaged beyond repair, or cannot be written.
            InputError: a new run would hold a path that is no UTF-8, which files of a run cannot say.
        """
        file = self.path / "config.yaml"
        if not file.exists():
            stray = [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]
            if stray:
                raise ResumeError(
                    "a new run needs an empty folder", got=f"{self.path} holding {stray[0]}", do="Choose another --run."
                )
            if wrong := not_utf8([str(self.path), config]):
                do = "Rename the file or folder."
                raise InputError("paths of a run and of its data must be UTF-8", got=wrong, do=do)
            self.write_config(config)
            self.write_json("environment.json", environment)
            return False
        differences = list(_differences(self.config(), config))
        if differences:
            raise ResumeError(
                f"{self.path} must be continued with its own configuration",
                got="; ".join(f"{key}: {new!r} instead of {old!r}" for key, old, new in differences),
                do="Use the same options, or another folder with --run.",
            )
        self._repair(environment, warn)
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
        if not seal.is_whole_text(file.read_bytes()):
            raise self._damaged("config.yaml", "text whose last line is not its check")
        return read_yaml(file)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml, atomically."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        self.write_text("config.yaml", seal.sealed_text(text))

    def write_text(self, name: str, text: str) -> None:
        """Replace a file atomically: readers see the old one or the new one."""
        replace_whole(self.path / name, text.encode())

    def write_json(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """`write_text` of readable JSON, with the key "check"; NaN is refused, since JSON has none.

        Returns:
            What the file says.
        """
        whole = seal.sealed(values)
        self.write_text(name, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
        return whole

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder, or None where it is not written yet.

        Raises:
            ResumeError: it does not say what was written.
        """
        file = self.path / name
        if not file.exists():
            return None
        try:
            found = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ResumeError(f"{file} must be valid JSON", got=error, do=RESTORE.get(name, OTHERWISE)) from None
        if not (isinstance(found, dict) and seal.is_whole(found)):
            raise self._damaged(name, "values whose key 'check' is not their check")
        return found

    def read_derived(self, name: str, warn: Warn) -> dict[str, Any] | None:
        """`read_json` of what can be made anew at little cost: None where it is damaged, and that is said."""
        try:
            return self.read_json(name)
        except ResumeError:
            warn(f"{self.path / name} is damaged; what it says is measured again.")
            return None

    def append_trials(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add lines to trials.csv, durably and with one write."""
        file = self.path / "trials.csv"
        header = [] if file.exists() and file.stat().st_size else [HEADER]
        self._append("trials.csv", [*header, *map(_trial_line, rows)])

    def replace_trials(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write trials.csv anew, atomically: what a row says may grow, its place does not change."""
        self.write_text("trials.csv", "".join(line + "\n" for line in [HEADER, *map(_trial_line, rows)]))

    def read_trials(self) -> list[dict[str, str]]:
        """The rows of trials.csv as text; a last line torn by a kill is left out.

        Raises:
            ResumeError: a row does not say what was written; the first below the header is row 1.
        """
        header, *lines = self._complete_lines("trials.csv") or [HEADER.encode()]
        if header != HEADER.encode():
            found = header[:80].decode(errors="replace")
            raise ResumeError(
                f"{self.path / 'trials.csv'} must have the columns of this version", got=found, do="Restore it."
            )
        rows = [seal.unsealed_row(line) for line in lines]
        if None in rows:
            raise self._damaged("trials.csv", f"row {rows.index(None) + 1}, whose last cell is not its check")
        cells = csv.reader([row.decode() for row in rows if row is not None])
        return [dict(zip(TRIAL_COLUMNS, row, strict=True)) for row in cells]

    def append_line(self, name: str, values: Mapping[str, Any]) -> None:
        """Add one JSON line, durably."""
        self._append(name, [json.dumps(seal.sealed(values))])

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines of a file; a torn last one is left out.

        Raises:
            ResumeError: a line does not say what was written.
        """
        found = []
        for number, line in enumerate(self._complete_lines(name), start=1):
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                values = None
            if not (isinstance(values, dict) and seal.is_whole(values)):
                raise self._damaged(name, f"line {number}: {line[:60].decode(errors='replace')!r}")
            found.append({key: value for key, value in values.items() if key != seal.KEY})
        return found

    def _append(self, name: str, lines: Sequence[str]) -> None:
        append_whole(self.path / name, "".join(line + "\n" for line in lines).encode())

    def _complete_lines(self, name: str) -> list[bytes]:
        file = self.path / name
        return file.read_bytes().split(b"\n")[:-1] if file.exists() else []

    def _damaged(self, name: str, found: str) -> ResumeError:
        do = RESTORE.get(name, OTHERWISE)
        return ResumeError(f"{self.path / name} must say what the run wrote", got=found, do=do)

    def _repair(self, environment: Mapping[str, Any], warn: Warn) -> None:
        """Mend what a kill may leave, and find what cannot be mended before anything is built on it."""
        for part in leftovers(self.path):
            part.unlink(missing_ok=True)
        locked = [file for file in self.path.rglob("*") if file.is_file() and not os.access(file, os.W_OK)]
        if locked:
            raise ResumeError("files of a run must be writable", got=locked[0], do="Change its permissions.")
        for name in ("trials.csv", "heads.jsonl", "calibrations.jsonl"):
            file = self.path / name
            data = file.read_bytes() if file.exists() else b""
            if not data.endswith(b"\n") and data:
                warn(f"{file}: the last line was torn, by a kill or a full disk, and is cut off.")
                os.truncate(file, data.rfind(b"\n") + 1)
        if self.read_json("environment.json") is None:
            warn(f"{self.path / 'environment.json'} was missing; it is written anew for the versions of today.")
            self.write_json("environment.json", environment)


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


def _trial_line(row: Mapping[str, Any]) -> str:
    return seal.sealed_row(_csv_line([cell_of(row.get(column)) for column in TRIAL_COLUMNS]))


def _csv_line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return " ".join(out.getvalue().splitlines())
