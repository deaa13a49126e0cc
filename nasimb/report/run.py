"""One run folder, read for a report; finished or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nasimb.accounts import Charge, Heard, examine
from nasimb.errors import InputError, ResumeError
from nasimb.extension import Extension, extensions
from nasimb.ledger import clock_seconds
from nasimb.rundir import RunDir
from nasimb.search.limits import Limits
from nasimb.search.trial import Trial, trials_of


@dataclass(frozen=True, eq=False)
class Run:
    """What a run folder holds.

    Attributes:
        name: of the folder.
        result: result.json, or None while the run is not finished.
        trials: every row of trials.csv as a value.
        spent_seconds: by phase.
        trained: what supernet.json says, where the folder is that of a finished `nasimb supernet train`.
        extensions: of its budget, in order.
        down_seconds: between its processes, which cost nothing.
        account: seconds of all its processes.
        heard: the last line that the ledger has of each of them, by name.
        retrained: result.json of every finished `nasimb retrain` of it, by the name of its folder.

    Example:
        >>> run = Run.read(Path("runs/digits"))
        >>> run.name, len(run.trials), sorted(run.spent_seconds)
        ('digits', 2, ['evaluate', 'head', 'prepare', 'search', 'supernet'])
        >>> run.trials_frame()[["number", "kind", "macs", "taps"]]
           number      kind     macs  taps
        0       0  smallest   242784     1
        1       1   largest  6693456     3
    """

    name: str
    config: dict[str, Any]
    result: dict[str, Any] | None
    trials: list[Trial]
    spent_seconds: dict[str, float]
    trained: dict[str, Any] | None = None
    extensions: Sequence[Extension] = ()
    down_seconds: float = 0.0
    account: Mapping[Charge, float] = field(default_factory=dict)
    heard: Mapping[str, Heard] = field(default_factory=dict)
    retrained: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read a run folder without changing it.

        Raises:
            InputError: it is no run folder. ResumeError: a file of it is damaged.
        """
        folder = RunDir(path)
        ledger = examine(folder.ledger)
        found = cls(
            name=path.resolve().name,
            config=folder.config(),
            result=folder.read_json("result.json"),
            trials=trials_of(folder),
            spent_seconds=clock_seconds(ledger.account),
            trained=folder.read_json("supernet.json"),
            extensions=extensions(folder),
            down_seconds=ledger.down_seconds,
            account=ledger.account,
            heard=ledger.heard,
            retrained=_retrained(path / "retrained"),
        )
        counted = 0 if found.result is None else sum(found.result.get("trials", {}).values())
        if len(found.trials) < counted:
            raise ResumeError(
                f"{path / 'trials.csv'} must have the trials that result.json counts",
                got=f"{len(found.trials)} of {counted}",
                do="Restore it.",
            )
        return found

    def finished_result(self) -> dict[str, Any]:
        """The result of a finished run.

        Raises:
            InputError: it is not finished.
        """
        if self.result is None:
            raise InputError(
                "a report needs a finished run",
                got=f"{self.name}, which has no result.json yet",
                do=f"To finish it, {self.next_command}; or ask nasimb status.",
            )
        if "winner" not in self.result:
            raise InputError(
                "a report is of a search", got=f"{self.name}, a retraining", do="Name the run that was retrained."
            )
        return self.result

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do: a result, or a trained super-network, is there."""
        return self.result is not None or self.trained is not None

    @property
    def next_command(self) -> str:
        """How to go on with a run that is not finished, as a clause."""
        return "type nasimb extend and its folder" if self.extensions else "give the same command again"

    @property
    def tested(self) -> tuple[str, dict[str, Any]] | None:
        """What a finished search or retraining is about, "winner" or "retrained", and its test in result.json."""
        names = [name for name in ("winner", "retrained") if name in (self.result or {})]
        return (names[0], (self.result or {})[names[0]]["test"]) if names else None

    def trials_within_limits(self) -> list[Trial]:
        """The trials that keep the run's limits on cost: the largest subnet is scored as a baseline even over them."""
        limits = Limits(self.config.get("max_macs"), self.config.get("max_params"))
        return [trial for trial in self.trials if limits.exceeded(trial.macs, trial.params) is None]

    def trials_frame(self) -> pd.DataFrame:
        """One row a trial, columns as in trials.csv, with numbers as numbers."""
        return pd.DataFrame([trial.to_row() for trial in self.trials])


def _retrained(folder: Path) -> dict[str, dict[str, Any]]:
    found = {one.name: RunDir(one).read_json("result.json") for one in sorted(folder.glob("*")) if one.is_dir()}
    return {name: result for name, result in found.items() if result is not None}
