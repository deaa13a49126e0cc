"""More budget for a run that was started before: the same study, the same super-network, and a new winner."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasimb.budget import Budget, Clock
from nasimb.config import RunConfig
from nasimb.errors import BudgetError, InputError
from nasimb.extension import Extension, extend, extensions, settle
from nasimb.ledger import Ledger
from nasimb.phases.prepare import choose_device, rounded_up
from nasimb.phases.sharing import ALONE, Sharing
from nasimb.pipeline import held_by, run_search
from nasimb.progress import Silent, Watcher
from nasimb.rundir import RunDir, environment
from nasimb.search.predict import predicted_seconds
from nasimb.search.trial import scored_as, trials_of
from nasimb.session import Stop
from nasimb.spec import parse

MARGIN = 1.2
"""Above what something took the last time."""


def extend_run(
    folder: Path,
    added: str | None = None,
    *,
    clock: Clock = time.monotonic,
    begun: float | None = None,
    watcher: Watcher | None = None,
    stop: Stop = lambda: 0,
    sharing: Sharing = ALONE,
) -> dict[str, Any]:
    """Go on with a run, finished or not, on more budget: search, then heads and test for the new winner.

    The super-network stays as it is, no candidate is scored twice, and the earlier result is kept as result-1.json.
    Asked again after a kill, with the same `added` or none, it goes on and adds nothing; so it does until the result
    was seen (`nasimb.extension.mark_seen`).

    Args:
        added: "+4gpu-h", in the unit of the run's budget; None goes on with an extension that was interrupted.
        clock, begun, watcher, stop, sharing: as `run_search` takes them.

    Returns:
        The contents of `folder/result.json`.

    Raises:
        BudgetError: `added` is no budget, of another unit, or cannot buy one more candidate and its test.
        InputError: no run, or nothing to go on with. Interrupted: as `run_search`.
    """
    run, watcher = RunDir(folder), watcher or Silent()
    with run.claimed():
        _check_a_search(run)
        settle(run)
        config = _config(run)
        made = extensions(run)
        finished = run.read_json("result.json")
        if not _asked_before(made, added):
            if added is None:
                raise _nothing_asked(folder, config.budget, made, finished)
            device = choose_device(config.device)
            budget = Budget.parse(config.budget).plus(added)
            spent_seconds = Ledger(run.ledger, clock, budget, held_by(device), warn=watcher.say).spent()
            extension = Extension(
                added, config.budget, budget.text, environment(str(device), sys.argv), spent_seconds
            )  # fmt: skip
            if finished is not None:
                _check_worthwhile(run, config, extension, clock, finished["test_reads"])
            extend(run, extension)
            config = config.model_copy(update={"budget": extension.budget})
            watcher.say(f"{folder}: the budget grows from {extension.before} to {extension.budget}.")
    return run_search(config, folder, clock=clock, begun=begun, watcher=watcher, stop=stop, sharing=sharing)


def _asked_before(made: list[Extension], added: str | None) -> bool:
    """Whether this is the command that asked for the last extension, whose result nobody has seen yet."""
    return bool(made) and not made[-1].seen and added in (None, made[-1].added)


def _check_a_search(run: RunDir) -> None:
    splits = run.read_json("splits.json")
    if run.read_json("supernet.json") is not None or (splits is not None and "indices" not in splits):
        raise InputError(
            "what is extended must be a search",
            got=f"{run.path}, a super-network's training",
            do="Train one with a larger --budget in another folder.",
        )


def _config(run: RunDir) -> RunConfig:
    return parse(RunConfig, run.config(), what=f"the configuration of {run.path}")


def _nothing_asked(folder: Path, budget: str, made: list[Extension], finished: Mapping[str, Any] | None) -> InputError:
    unit = budget.split(",")[0]
    if finished is not None:
        do = f"Type nasimb extend {folder} --budget +{unit}, for example."
        return InputError("a finished run needs more budget to go on", got="no --budget", do=do)
    do = f"Give the command that started it again, or add to its budget with --budget +{unit}, for example."
    return InputError("an extension needs a budget", got=f"none for {folder}, which is not finished", do=do)


def _check_worthwhile(run: RunDir, config: RunConfig, extension: Extension, clock: Clock, tests: int) -> None:
    """Refuse more time that cannot buy a candidate, by what this run took so far for everything that comes again.

    Args:
        tests: how often the run was tested so far.

    Raises:
        BudgetError: names the smallest extension that works.
    """
    holding = held_by(choose_device(config.device))
    budget, before = Budget.parse(extension.budget), Budget.parse(extension.before)
    ledger = Ledger(run.ledger, clock, budget, holding)
    spent, rows = ledger.by_phase(), trials_of(run)
    trials = [trial for trial in rows if trial.seconds > 0]
    largest = scored_as("largest", rows, trials)
    largest_seconds = 0.0 if largest is None else largest.seconds
    again_seconds = spent.get("prepare", 0.0) + 2 * largest_seconds + spent.get("evaluate", 0.0) / tests
    candidate_seconds = predicted_seconds([trial.macs for trial in trials[-1:]], [(t.macs, t.seconds) for t in trials])
    needed_seconds = MARGIN * again_seconds + candidate_seconds
    short = []
    for kind, held in (("wall", 1), ("gpu", holding.gpus), ("cpu", holding.threads)):
        limit, limit_before = getattr(budget, f"{kind}_seconds"), getattr(before, f"{kind}_seconds")
        if limit is not None and limit - ledger.spent_of(kind) < held * needed_seconds:
            least = held * needed_seconds + ledger.spent_of(kind) - limit_before
            short.append("+" + rounded_up(least, "" if kind == "wall" else f"{kind}-"))
    if short:
        raise BudgetError(
            "an extension must buy a candidate and the test of a new winner",
            got=f"{extension.added}, with which {max(ledger.remaining(), 0.0):.0f} s are left",
            do=f"Give at least {','.join(short)}.",
        )
