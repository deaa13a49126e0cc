"""One candidate and the record of its trial, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nasimb.space import Subnet

FINISHED, CACHED, INFEASIBLE, FAILED = "finished", "cached", "infeasible", "failed"


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
        state: finished; cached (scored before, cost nothing); infeasible (over a limit, not scored); failed.
        kind: who proposed it: smallest, largest, random or sampler.
        score: the objective; larger is better. The recalls beside it are fractions, None for an empty group.
        balanced_loss: mean over classes of the held-out loss of the last closed-form head at its best; breaks ties.
        head, setting: the closed-form head that scored best and its penalty or shrinkage.
        macs, params: of one image through the subnet and its linear head.
        seconds: charged for it.
        cached_from: number of the trial whose result (a failure too) this one repeats.
        reason: why it failed or is infeasible.
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
    balanced_accuracy: float | None = None
    many: float | None = None
    medium: float | None = None
    few: float | None = None
    worst_recall: float | None = None
    balanced_loss: float | None = None
    head: str | None = None
    setting: float | None = None
    cached_from: int | None = None
    reason: str | None = None

    def repeated_as(self, number: int, kind: str) -> Trial:
        """The same result under another number, at no cost."""
        return replace(self, number=number, kind=kind, state=CACHED, seconds=0.0, cached_from=self.number)

    def to_row(self) -> dict[str, Any]:
        """The columns of trials.csv."""
        row = {name: getattr(self, name) for name in self.__slots__ if name != "candidate"}
        return {**row, **self.candidate.subnet.to_dict(), "calibration": self.candidate.calibration}

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> Trial:
        """Undo `to_row` after a trip through CSV, where everything is text and None is empty."""

        def integers(name: str) -> tuple[int, ...]:
            return tuple(int(part) for part in row[name].split("-"))

        def number(name: str) -> float | None:
            return float(row[name]) if row[name] else None

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
            balanced_accuracy=number("balanced_accuracy"),
            many=number("many"),
            medium=number("medium"),
            few=number("few"),
            worst_recall=number("worst_recall"),
            balanced_loss=number("balanced_loss"),
            head=row["head"] or None,
            setting=number("setting"),
            cached_from=int(row["cached_from"]) if row["cached_from"] else None,
            reason=row["reason"] or None,
        )


def best_first(trials: list[Trial]) -> list[Trial]:
    """Scored trials from best to worst, each candidate once; ties go to the smaller loss, then to fewer MACs."""
    scored = [trial for trial in trials if trial.state == FINISHED and trial.score is not None]

    def order(trial: Trial) -> tuple[float, float, int, int]:
        assert trial.score is not None
        loss = float("inf") if trial.balanced_loss is None else trial.balanced_loss
        return -trial.score, loss, trial.macs, trial.number

    return sorted(scored, key=order)


def pareto_set(trials: list[Trial], cost: str) -> list[Trial]:
    """Trials that no other beats in both score and `cost` ("macs" or "params"), cheapest first."""
    front: list[Trial] = []
    for trial in sorted(best_first(trials), key=lambda t: (getattr(t, cost), -(t.score or 0.0))):
        if not front or (trial.score or 0.0) > (front[-1].score or 0.0):
            front.append(trial)
    return front
