"""Whether budgets hold: whole runs on embedded digits, started as a user starts them, timed from outside as well."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nasimb.bench.base import Conditions, Figure, Skipped, made_with
from nasimb.bench.process import run_command
from nasimb.bench.provenance import on_processor
from nasimb.errors import BudgetError, WorkError
from nasimb.phases.prepare import REFUSAL

SHORTEST_SECONDS, LONGEST_SECONDS = 10, 120
BUDGETS, QUICK_BUDGETS = 20, 1
QUICK_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Spent:
    """One run.

    Attributes:
        limit_seconds: its budget.
        ledger_seconds: spent by its own account.
        outside_seconds: from the start of the process to its end, by the clock of who started it.
    """

    limit_seconds: float
    ledger_seconds: float
    outside_seconds: float


def budgets(conditions: Conditions) -> Iterator[Figure]:
    """overrun_*, utilisation_*: of searches on digits with budgets from 10 s to 120 s, each a process of its own."""
    limits = [QUICK_SECONDS] * QUICK_BUDGETS if conditions.quick else _limits()
    runs, refused = [], []
    for number, limit in enumerate(limits):
        run = _run(conditions, limit, number, number / len(limits))
        if run is None:
            refused.append(limit)
        else:
            runs.append(run)
    if not runs:
        raise Skipped(f"Every budget was refused as too small for this machine: {_listed(refused)}.")
    yield from made_with(figures(runs, refused), clock="wall clock", **on_processor("digits", "trained"))


def figures(runs: Sequence[Spent], refused: Sequence[float] = ()) -> Iterator[Figure]:
    """What the runs say of the promise.

    Args:
        refused: budgets too small for this machine, in seconds.
    """
    limit_R, ledger_R, outside_R = np.array([[r.limit_seconds, r.ledger_seconds, r.outside_seconds] for r in runs]).T
    what = f"{len(runs)} searches on digits, {limit_R.min():g} s to {limit_R.max():g} s"
    if len(refused):
        what += f" (refused as too small: {_listed(refused)})"
    allowed_R = np.maximum(0.01 * limit_R, 1.0)
    each = {f"{run.limit_seconds:g}s": run.ledger_seconds for run in runs}
    watched = {f"{run.limit_seconds:g}s": run.outside_seconds for run in runs}
    for name, spent_R, by, detail in (
        ("overrun", ledger_R, "spent by the ledger", each),
        ("overrun_outside", outside_R, "from the process's start to its end", watched),
    ):
        over_R = spent_R - limit_R
        yield Figure(
            f"{name}_median", float(np.median(100 * over_R / limit_R)),
            f"time {by}, above the budget; median, negative where less was spent; {what}",
            unit="% of budget", at_most=0.5, repetitions=len(runs), detail=detail,
        )  # fmt: skip
        yield Figure(
            f"{name}_worst", float(np.max(over_R / allowed_R)),
            f"time {by}, above the budget / the larger of 1 % and 1 s; worst; {what}", at_most=1.0,
            repetitions=len(runs), detail={"percent": float(np.max(100 * over_R / limit_R))},
        )  # fmt: skip
    for name, value in (("median", np.median(ledger_R / limit_R)), ("lowest", np.min(ledger_R / limit_R))):
        yield Figure(
            f"utilisation_{name}", 100 * float(value), f"spent by the ledger; {name}; {what}", unit="% of budget",
            at_least=95.0, repetitions=len(runs),
        )  # fmt: skip


def _limits() -> list[int]:
    return [round(float(seconds)) for seconds in np.linspace(SHORTEST_SECONDS, LONGEST_SECONDS, BUDGETS)]


def _run(conditions: Conditions, limit: int, seed: int, done: float) -> Spent | None:
    """One search; None where the budget was refused.

    Raises:
        WorkError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        run, log = Path(folder) / "run", Path(folder) / "log"
        words = ["search", "--budget", f"{limit}s", "--seed", str(seed), "--run", str(run), "--device", "cpu"]
        start = time.monotonic()
        code, said = run_command(words, log, lambda: conditions.tick("budgets", done, f"a search of {limit} s"))
        outside_seconds = time.monotonic() - start
        if code == BudgetError.exit_code and REFUSAL in said:
            return None
        if code != 0:
            raise WorkError("a search must end", got=said.rstrip(".") or "no word", do="Run it by hand.")
        spend = json.loads((run / "result.json").read_text(encoding="utf-8"))["spend"]
    return Spent(limit, spend["spent_seconds"], outside_seconds)


def _listed(seconds: Sequence[float]) -> str:
    return ", ".join(f"{one:g} s" for one in seconds)
