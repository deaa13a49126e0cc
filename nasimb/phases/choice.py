"""A candidate with the head it goes to the test with, and how good that was on held-out images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nasimb.heads import ClosedFormSpec
from nasimb.heads.compare import Named, named
from nasimb.metrics import Metrics
from nasimb.search.trial import Candidate, Trial
from nasimb.space import Subnet

SHOWN = ("balanced_accuracy", "many", "medium", "few")


@dataclass(frozen=True, slots=True)
class Choice:
    """A candidate with the head it goes to the test with.

    Attributes:
        head: a closed-form head or a loss of the logistic head: its name, or a mapping of it and its options.
        setting: penalty or shrinkage.
        value: the objective on held-out images; `metrics` has more of them.
        balanced_loss: mean over classes of the held-out log loss; with few images a class values tie often, and then
            the head that is surer of the right classes wins. None for a head that only ranked.
        estimator: how they were held out: "leave-one-out", "5-fold", "holdout".
        seconds: it took.
    """

    candidate: Candidate
    head: Named
    setting: float
    value: float
    balanced_loss: float | None
    metrics: dict[str, float | None]
    estimator: str
    seconds: float

    def to_line(self) -> dict[str, Any]:
        """A line of heads.jsonl."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "candidate"}
        return {"subnet": self.candidate.subnet.to_dict(), "calibration": self.candidate.calibration, **values}

    @classmethod
    def from_line(cls, line: dict[str, Any]) -> Choice:
        """Undo `to_line`."""
        values = dict(line)
        candidate = Candidate(Subnet.from_dict(values.pop("subnet")), values.pop("calibration"))
        return cls(candidate=candidate, **values)

    @classmethod
    def untried(cls, candidate: Candidate, head: Named, setting: float) -> Choice:
        """A head that was compared with no other."""
        return cls(candidate, head, setting, float("-inf"), None, dict.fromkeys(SHOWN), "not held out", 0.0)

    @classmethod
    def of_trial(cls, trial: Trial, head: ClosedFormSpec, estimator: str) -> Choice:
        """The closed-form head that a trial was ranked by, `head`, at the setting and tau that did best."""
        assert trial.head == head.name
        assert trial.setting is not None
        assert trial.score is not None
        metrics = {name: getattr(trial, name) for name in SHOWN}
        chosen = named(head.chosen(trial.tau or 0.0))
        return cls(trial.candidate, chosen, trial.setting, trial.score, None, metrics, estimator, 0.0)


def merit(choice: Choice) -> tuple[float, float]:
    """Larger is better; ties go to the smaller loss."""
    return choice.value, float("-inf") if choice.balanced_loss is None else -choice.balanced_loss


def shown(metrics: Metrics) -> dict[str, float | None]:
    """What a choice tells of them."""
    return {name: getattr(metrics, name) for name in SHOWN}
