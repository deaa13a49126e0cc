"""One candidate and the record of its trial, as plain values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from nasimb.errors import ResumeError
from nasimb.rundir import RunDir, cell_of
from nasimb.space import Subnet

FINISHED, SCREENED, CACHED, INFEASIBLE, FAILED = STATES = "finished", "screened", "cached", "infeasible", "failed"


class Failure(StrEnum):
    """What went wrong with a trial; see `nasimb.search.failures` for what is done about each."""

    OOM = "oom"
    NAN = "nan"
    TIMEOUT = "timeout"
    LOST_WORKER = "lost_worker"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a trial scores: a subnet and the policy its BN statistics are calibrated with."""

    subnet: Subnet
    calibration: str

    def __str__(self) -> str:
        return f"{self.subnet} {self.calibration}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One row of trials.csv.

    Attributes:
        number: Optuna's trial number.
        state: finished; screened (scored on a part of the images only); cached (scored before, cost nothing);
            infeasible (over a limit, not scored); failed.
        kind: who proposed it: smallest, largest, random or sampler.
        score: the objective on all images; larger is better. The recalls beside it are fractions, None for an empty
            group; those of a screened trial are of the part.
        screen_score: the objective on the part of the images that screens; None in a run that does not screen.
        balanced_loss: mean over classes of the held-out loss of the last closed-form head at its best; breaks ties.
        head, setting: the closed-form head that scored best and its penalty or shrinkage.
        tau: of that head's logit adjustment; 0 for a head without.
        macs, params: of one image through the subnet and its linear head.
        seconds: charged for it: its share of what its batch took.
        cached_from: number of the trial whose result (a failure too) this one repeats.
        worker: the process that scored it; None for the owner of the run.
        attempt: 1, or 2 where a worker was lost with it before.
        failure: what went wrong: why it failed; or, where it has a score, why that took a second attempt.
        reason: the same in a sentence where it failed, or why it is infeasible.
    """

    number: int
    state: str
    kind: str
    candidate: Candidate
    macs: int
    params: int
    seconds: float = 0.0
    device: str = ""
    seed: int = 0
    score: float | None = None
    screen_score: float | None = None
    balanced_accuracy: float | None = None
    many: float | None = None
    medium: float | None = None
    few: float | None = None
    worst_recall: float | None = None
    balanced_loss: float | None = None
    head: str | None = None
    setting: float | None = None
    tau: float | None = None
    cached_from: int | None = None
    worker: str | None = None
    attempt: int = 1
    failure: Failure | None = None
    reason: str | None = None

    def repeated_as(self, number: int, kind: str) -> Trial:
        """The same result under another number, at no cost."""
        return replace(self, number=number, kind=kind, state=CACHED, seconds=0.0, cached_from=self.number)

    def to_row(self) -> dict[str, Any]:
        """The columns of trials.csv."""
        row = {name: getattr(self, name) for name in self.__slots__ if name != "candidate"}
        return {**row, **self.candidate.subnet.to_dict(), "calibration": self.candidate.calibration}

    def to_cells(self) -> dict[str, str]:
        """`to_row` as text, which `from_row` undoes."""
        return {name: cell_of(value) for name, value in self.to_row().items()}

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> Trial:
        """Undo `to_row` after a trip through CSV, where everything is text and None is empty.

        Raises:
            ValueError, KeyError: the row is no trial; `trials_from` says which one.
        """
        if row["state"] not in STATES:
            raise ValueError(f"state {row['state']!r}")

        def integers(name: str) -> tuple[int, ...]:
            return tuple(int(part) for part in row[name].split("-"))

        def number(name: str) -> float | None:
            value = float(row[name]) if row[name] else None
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} {row[name]!r}")
            return value

        subnet = Subnet(
            resolution=int(row["resolution"]),
            depths=integers("depths"),
            widths=integers("widths"),
            kernel_sizes=integers("kernel_sizes"),
            norms=tuple(row["norms"].split("-")),
            taps=int(row["taps"]),
        )
        return cls(
            number=int(row["number"]),
            state=row["state"],
            kind=row["kind"],
            candidate=Candidate(subnet, row["calibration"]),
            macs=int(row["macs"]),
            params=int(row["params"]),
            seconds=float(row["seconds"]),
            device=row["device"],
            seed=int(row["seed"]),
            score=number("score"),
            screen_score=number("screen_score"),
            balanced_accuracy=number("balanced_accuracy"),
            many=number("many"),
            medium=number("medium"),
            few=number("few"),
            worst_recall=number("worst_recall"),
            balanced_loss=number("balanced_loss"),
            head=row["head"] or None,
            setting=number("setting"),
            tau=number("tau"),
            cached_from=int(row["cached_from"]) if row["cached_from"] else None,
            worker=row["worker"] or None,
            attempt=int(row["attempt"]),
            failure=Failure(row["failure"]) if row["failure"] else None,
            reason=row["reason"] or None,
        )


def trials_of(run_dir: RunDir) -> list[Trial]:
    """Every trial of a run, in the order of trials.csv; none where there is no such file yet.

    Raises:
        ResumeError: a row is damaged; names the file and the row (the first below the header is row 1).
    """
    return trials_from(run_dir.read_trials(), run_dir.path / "trials.csv")


def trials_from(rows: Iterable[Mapping[str, str]], file: Path) -> list[Trial]:
    """The trials that the rows of a file are.

    Raises:
        ResumeError: one is none; names the file and the row, counted from 1.
    """
    trials = []
    for number, row in enumerate(rows, start=1):
        try:
            trials.append(Trial.from_row(row))
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # JSON has more types than text
            raise ResumeError(
                f"every row of {file} must be a trial", got=f"row {number}: {error}", do="Use the nasimb that wrote it."
            ) from None
    return trials


def failure_counts(trials: Iterable[Trial]) -> str:
    """How many failed with what, as "2 oom, 1 nan"; empty where none did."""
    counts = Counter(trial.failure for trial in trials if trial.state == FAILED)
    return ", ".join(f"{counts[kind]:,} {kind}" for kind in Failure if counts[kind])


def best_first(trials: list[Trial]) -> list[Trial]:
    """Trials scored on everything, each candidate once, best first; ties go to the smaller loss, then to fewer MACs."""
    scored = [trial for trial in trials if trial.state == FINISHED and trial.score is not None]

    def order(trial: Trial) -> tuple[float, float, int, int]:
        assert trial.score is not None
        loss = float("inf") if trial.balanced_loss is None else trial.balanced_loss
        return -trial.score, loss, trial.macs, trial.number

    return sorted(scored, key=order)


def scored_as(kind: str, trials: Sequence[Trial], ranked: Sequence[Trial]) -> Trial | None:
    """The trial among `ranked` that scored what was proposed as the first of this kind; None where none did.

    By candidate: where subnets differ in their norms alone, the largest is a repeat of the smallest.
    """
    candidate = next((trial.candidate for trial in trials if trial.kind == kind), None)
    return next((trial for trial in ranked if trial.candidate == candidate), None)


def pareto_set(trials: list[Trial], cost: str) -> list[Trial]:
    """Trials that no other beats in both score and `cost` ("macs" or "params"), cheapest first."""
    front: list[Trial] = []
    for trial in sorted(best_first(trials), key=lambda t: (getattr(t, cost), -(t.score or 0.0))):
        if not front or (trial.score or 0.0) > (front[-1].score or 0.0):
            front.append(trial)
    return front
