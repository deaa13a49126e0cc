"""How heads are compared, and how thoroughly problems of which size allow it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from nasimb.heads.compare import HeldOut, Named
from nasimb.metrics import Metrics, measure, objective_value

T = TypeVar("T")

PLAIN = "cross_entropy"
"""The head that does nothing against the imbalance: every comparison has it for a baseline."""
LARGE_PROBLEM = 10**8
"""Images x features x classes from which one logistic fit takes seconds on a CPU."""
LARGE_FOLDS, LARGE_PENALTIES = 3, (1e-3, 1e-4)
FOLDS, PENALTIES = 5, (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


@dataclass(frozen=True, eq=False)
class Comparison:
    """How heads are compared.

    Attributes:
        heads: tried on every finalist.
        count: how many of the best candidates are finalists.
        folds: stratified; not used where there is a hold-out. None: 5, or 3 for a large problem.
        penalties: of the logistic head. None: five from 0.1 to 1e-5, or two for a large problem.
        seed: of the folds, and of the crops.
        crops: of every image, for the last refit of every head that is tested.
    """

    heads: tuple[Named, ...]
    count: int
    folds: int | None
    penalties: tuple[float, ...] | None
    seed: int
    crops: int = 1

    def sized(self, numbers: int) -> Comparison:
        """The same with folds and penalties for a problem of so many images x features x classes."""
        large = numbers > LARGE_PROBLEM
        folds, penalties = (LARGE_FOLDS, LARGE_PENALTIES) if large else (FOLDS, PENALTIES)
        return replace(self, folds=self.folds or folds, penalties=self.penalties or penalties)


def distinct(values: Iterable[T]) -> list[T]:
    """In order of first occurrence; equal is enough, since heads with options cannot be hashed."""
    found: list[T] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def best_settings(
    found: Iterable[HeldOut], truth_M: Tensor, class_counts_K: Tensor, objective: str
) -> list[tuple[float, HeldOut, Metrics]]:
    """Of every kind of head its best setting, with the objective's value and all metrics.

    Ties go to the smaller loss.
    """
    best: dict[str, tuple[float, HeldOut, Metrics]] = {}
    for one in found:
        metrics = measure(one.predicted_M, truth_M, class_counts_K)
        value, kind = objective_value(metrics, objective), head_name(one.head)
        if kind not in best or (value, -one.balanced_loss) > (best[kind][0], -best[kind][1].balanced_loss):
            best[kind] = value, one, metrics
    return list(best.values())


def head_name(head: Named) -> str:
    """Of a head with its post-hoc correction, without its options."""
    if isinstance(head, str):
        return head
    return str(head["name"]) + (f" + {head['posthoc']}" if "posthoc" in head else "")
