"""What finished trials say within limits that the run did not know of: a question that costs nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nasimb.report.run import Run
from nasimb.report.show import markdown_table, markdown_text, stdout, terminal_table
from nasimb.report.tables import amount, trials_table
from nasimb.rundir import RunDir
from nasimb.search.limits import Limits
from nasimb.search.trial import FINISHED, SCREENED, Trial, best_first, pareto_set


@dataclass(frozen=True, eq=False)
class Found:
    """The trials of a run within limits.

    Attributes:
        limits: asked for; where none was, the run's own.
        cost: "macs" or "params".
        finished: every trial that was scored on all images, best first.
        within: those of them that keep the limits.
        front: those of them that no other beats in score and cost, cheapest first.
        screened: how many trials were scored on a part of the images only, which do not compare.
        winner: the number of the run's winner, where it is one of these trials.
        supernet: folder of the super-network that was searched.
    """

    limits: Limits
    cost: str
    finished: list[Trial]
    within: list[Trial]
    front: list[Trial]
    screened: int
    winner: int | None
    supernet: Path

    @property
    def best(self) -> Trial | None:
        """The best trial within the limits; None where there is none."""
        return self.within[0] if self.within else None

    @property
    def cheapest(self) -> Trial | None:
        """The cheapest finished trial, whatever its score; None where none is finished."""
        return min(self.finished, key=lambda trial: getattr(trial, self.cost), default=None)

    def to_dict(self) -> dict[str, Any]:
        """For programs: the limits, "pareto", "best" and "cheapest", each trial as its row with the subnet's name."""
        return {
            "limits": {"max_macs": self.limits.max_macs, "max_params": self.limits.max_params},
            "cost": self.cost,
            "finished": len(self.finished),
            "within": len(self.within),
            "pareto": [_entry(trial) for trial in self.front],
            "best": None if self.best is None else _entry(self.best),
            "cheapest": None if self.cheapest is None else _entry(self.cheapest),
        }


def within_limits(run: Run, folder: Path, limits: Limits, cost: str | None = None) -> Found:
    """Ask the finished trials of a run, finished or not.

    Args:
        folder: of the run.
        limits: a limit that is None is the run's own.
        cost: "macs" or "params"; None: the one that the run's objective names, else MACs.
    """
    own = run.config
    limits = Limits(
        own.get("max_macs") if limits.max_macs is None else limits.max_macs,
        own.get("max_params") if limits.max_params is None else limits.max_params,
    )
    cost = cost or str(own["objective"]).partition(",")[2] or "macs"
    finished = best_first(run.trials)
    within = [trial for trial in finished if limits.exceeded(trial.macs, trial.params) is None]
    screened = sum(trial.state == SCREENED for trial in run.trials)
    ready = own.get("supernet")
    supernet = RunDir(folder).supernet if ready is None else Path(ready)
    return Found(limits, cost, finished, within, pareto_set(within, cost), screened, _winner(run), supernet)


def sentences(found: Found, folder: Path) -> list[str]:
    """What the reader of the table must know: the best, or why there is none, and how to get a model of it."""
    asked = _asked(found.limits)
    best, cheapest = found.best, found.cheapest
    lines = []
    if best is not None:
        lines.append(f"best{asked}: {_told(best)}")
        if best.number == found.winner:
            lines.append(f"It is the winner of the run: {folder / 'best'}")
        elif asked:
            lines.append(f"For a tested model{asked}, search there: nasimb search --supernet {found.supernet} ...")
    elif cheapest is not None:
        kind = "MACs" if found.cost == "macs" else "params"
        lines.append(f"No finished trial is{asked}; the cheapest by {kind} is {_told(cheapest)}")
    else:
        lines.append("No trial is finished yet.")
    screened = f"; {found.screened:,} more saw a part of the images only" if found.screened else ""
    lines.append(f"{len(found.within):,} of {len(found.finished):,} finished trials keep the limits{screened}")
    return lines


def print_pareto(found: Found, folder: Path, form: str) -> None:
    """The Pareto set and the sentences on stdout.

    Args:
        form: "terminal", "markdown", "csv" or "json".
    """
    if form == "json":
        print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
        return
    if form == "csv":
        columns = ["number", "score", "balanced_accuracy", "many", "medium", "few", "macs", "params", "name"]
        frame = pd.DataFrame([_entry(trial) for trial in found.front], columns=[*columns, "calibration"])
        print(frame.to_csv(index=False), end="")
        return
    title, table = f"Pareto set{_asked(found.limits)} (held out)", trials_table(found.front)
    if form == "markdown":
        print(markdown_table(table, title=title))
    elif found.front:
        stdout().print(terminal_table(table, title=title))
    for line in sentences(found, folder):
        print(f"- {markdown_text(line)}" if form == "markdown" else line)


def _winner(run: Run) -> int | None:
    """The number of the trial that became the winner of the finished run."""
    if run.result is None:
        return None
    winner = run.result["winner"]
    same = (
        trial.number
        for trial in run.trials
        if trial.state == FINISHED
        and trial.candidate.calibration == winner["calibration"]
        and json.loads(json.dumps(trial.candidate.subnet.to_dict())) == winner["subnet"]
    )
    return next(same, None)


def _asked(limits: Limits) -> str:
    parts = [
        f"{amount(most)} {name}"
        for most, name in ((limits.max_macs, "MACs"), (limits.max_params, "params"))
        if most is not None
    ]
    return f" within {' and '.join(parts)}" if parts else ""


def _told(trial: Trial) -> str:
    return (
        f"trial {trial.number}, score {100 * (trial.score or 0.0):.1f}, {amount(trial.macs)} MACs, "
        f"{amount(trial.params)} params ({trial.candidate})"
    )


def _entry(trial: Trial) -> dict[str, Any]:
    kept = ("number", "score", "balanced_accuracy", "many", "medium", "few", "worst_recall", "macs", "params", "head")
    values = {name: getattr(trial, name) for name in kept}
    subnet = trial.candidate.subnet
    return {
        **values, "name": str(subnet), "subnet": subnet.to_dict(), "calibration": trial.candidate.calibration,
    }  # fmt: skip
