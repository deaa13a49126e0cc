"""A ledger's lines and its mark as text: written with checksums, read back, and restored from each other.

Every line and the mark carry a CRC-32 of what they say. What damage can be told apart, and what becomes of it:

| found | done |
|---|---|
| a last line without its end, all that the mark counts is there | the line, which a kill tore, is dropped |
| fewer lines than the mark counts, or a line with a wrong checksum | the mark and later lines count |
| no file, and a good mark | the mark counts |
| no mark, or one with a wrong checksum, and only good lines | the lines count |
| a wrong line and no good mark | refused |
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

from nasimb.errors import ResumeError

OWNER = "main"
"""Name of the process that owns the run folder; its seconds are those of the clock on the wall."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What seconds are charged to.

    Attributes:
        phase: of the run.
        worker: "main", or the name of another process.
        gpus, threads: that it held.
    """

    phase: str
    worker: str
    gpus: int
    threads: int


Account = dict[Charge, float]
"""Seconds by what they are charged to, in order of first charge."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The last good line of a process.

    Attributes:
        charge: what it was about.
        at: seconds since 1970 on the clock of the run's owner, who writes all lines.
    """

    charge: Charge
    at: float


@dataclass(frozen=True, slots=True)
class Examined:
    """What a ledger's file says.

    Attributes:
        account: what its lines, or the mark, add up to.
        lines: in the file.
        repaired: what was wrong and is made good in `account`, as a sentence; None: nothing.
        began, ended: seconds since 1970 when the owner's first good line began, and its last was written; None where
            there is none.
        heard: the last line of every process, by its name.
    """

    account: Account
    lines: int
    repaired: str | None
    began: float | None = None
    ended: float | None = None
    heard: Mapping[str, Heard] = field(default_factory=dict)

    @property
    def down_seconds(self) -> float:
        """Between the two, in which the owner of the run was not running: shown, not charged."""
        if self.began is None or self.ended is None:
            return 0.0
        charged_seconds = sum(seconds for charge, seconds in self.account.items() if charge.worker == OWNER)
        return max(self.ended - self.began - charged_seconds, 0.0)


def line_of(charge: Charge, seconds: float, at: float) -> str:
    """One line of the file.

    Args:
        at: seconds since 1970, to show when a run was paused; nothing is computed from it.
    """
    return _checked({**_named(charge), "seconds": round(seconds, 6), "at": round(at, 1)}) + "\n"


def mark_of(account: Account, lines: int) -> str:
    """What the mark says of an account that so many lines add up to."""
    rows = [{**_named(charge), "seconds": round(seconds, 6)} for charge, seconds in account.items()]
    return _checked({"lines": lines, "account": rows}) + "\n"


def was_kept(path: Path) -> bool:
    """Whether there is a ledger: its file, or the mark of one that was lost."""
    return path.exists() or path.with_suffix(".mark").exists()


def examine(path: Path) -> Examined:
    """Read a ledger's file and its mark, of which one may be missing.

    Raises:
        ResumeError: a line is wrong and the mark cannot make up for it.
    """
    data = path.read_bytes() if path.exists() else b""
    complete, _, torn = data.rpartition(b"\n")
    said = [_unchecked(line) for line in complete.split(b"\n")] if complete else []
    found = _added_up(path, [_charge(row) for row in said], torn)
    found = replace(found, heard=_heard(said))
    own = [row for row in said if row is not None and row["worker"] == OWNER]
    if not own:
        return found
    return replace(found, began=float(own[0]["at"]) - float(own[0]["seconds"]), ended=float(own[-1]["at"]))


def _heard(said: Sequence[dict[str, Any] | None]) -> dict[str, Heard]:
    heard = {}
    for row in said:
        charged = _charge(row)
        if row is not None and charged is not None:
            heard[charged[0].worker] = Heard(charged[0], float(row["at"]))
    return heard


def _added_up(path: Path, rows: list[tuple[Charge, float] | None], torn: bytes) -> Examined:
    """What lines and mark say together."""
    mark_file = path.with_suffix(".mark")
    mark = _mark(mark_file)
    wrong = [number for number, row in enumerate(rows, start=1) if row is None]
    if mark is None:
        if wrong:
            raise ResumeError(
                f"every line of {path} must be a charge",
                got=f"line {wrong[0]}, which is damaged, and no whole {mark_file.name} to restore it from",
                do="Restore both files, or start a new run.",
            )
        missing = f"{mark_file.name} was missing or damaged; it is written anew" if len(rows) > 1 else None
        return Examined(_sum(rows), len(rows), _torn(path, torn) or missing)
    account, lines = mark
    if not wrong and len(rows) >= lines:
        return Examined(_sum(rows), len(rows), _torn(path, torn))
    restored = _sum([*account.items(), *rows[lines:]])
    found = f"line {wrong[0]} is damaged" if wrong else f"{len(rows)} of {lines} lines are left"
    later = " (what a damaged last line said is lost)" if any(number > lines for number in wrong) else ""
    return Examined(restored, len(rows), f"{path}: {found}; the account is restored from {mark_file.name}{later}")


def _torn(path: Path, torn: bytes) -> str | None:
    return f"{path}: the last line was torn by a kill and is left out" if torn else None


def _named(charge: Charge) -> dict[str, Any]:
    return {"phase": charge.phase, "worker": charge.worker, "gpus": charge.gpus, "threads": charge.threads}


def _checked(values: dict[str, Any]) -> str:
    body = json.dumps(values)
    return f'{body[:-1]}, "check": "{crc32(body.encode()):08x}"}}'


def _unchecked(line: bytes) -> dict[str, Any] | None:
    """What a line says; None if its checksum is wrong."""
    body, mark, end = line.rpartition(b', "check": "')
    if not mark or end != f'{crc32(body + b"}"):08x}"}}'.encode():
        return None
    found = json.loads(body + b"}")
    return found if isinstance(found, dict) else None


def _charge(row: dict[str, Any] | None) -> tuple[Charge, float] | None:
    if row is None:
        return None
    return Charge(row["phase"], row["worker"], row["gpus"], row["threads"]), float(row["seconds"])


def _mark(file: Path) -> tuple[Account, int] | None:
    if not file.exists():
        return None
    found = _unchecked(file.read_bytes().removesuffix(b"\n"))
    if found is None:
        return None
    rows = [_charge(row) for row in found["account"]]
    return _sum(rows), int(found["lines"])


def _sum(rows: Sequence[tuple[Charge, float] | None]) -> Account:
    account: Account = {}
    for row in rows:
        if row is not None:
            account[row[0]] = account.get(row[0], 0.0) + row[1]
    return account
