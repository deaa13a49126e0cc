"""Budgets: what the user typed ("8gpu-h", "30min", "200trials", or several: the first reached stops), as values.

Start with `Budget.parse`; what is spent of it is the matter of `nasimb.ledger`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from nasimb.errors import BudgetError

__all__ = ["Budget", "Clock", "Holding"]

Clock = Callable[[], float]
"""Seconds from any fixed origin, never going back: `time.monotonic`, or a list of numbers in a test."""

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_UNITS = {
    **{unit: ("wall", seconds) for unit, seconds in _SECONDS.items()},
    **{f"gpu-{unit}": ("gpu", seconds) for unit, seconds in _SECONDS.items()},
    **{f"cpu-{unit}": ("cpu", seconds) for unit, seconds in _SECONDS.items()},
    "trials": ("trials", 1.0),
}
_EXAMPLE = "Type a number and a unit: 8gpu-h, 2cpu-h, 30min, 2h or 200trials; several are joined by commas."


@dataclass(frozen=True, slots=True)
class Holding:
    """What a process holds while its time passes, whether it computes or waits.

    Attributes:
        gpus: devices.
        threads: of a processor.

    Example:
        >>> trainer = Holding(gpus=1, threads=4)
        >>> trainer + Holding(gpus=2, threads=2)
        Holding(gpus=3, threads=6)
        >>> Budget.parse("8cpu-h").limit_seconds(trainer) / 3600  # hours on the clock
        2.0
    """

    gpus: int = 0
    threads: int = 1

    def __add__(self, other: Holding) -> Holding:
        return Holding(self.gpus + other.gpus, self.threads + other.threads)


NOTHING, ONE_THREAD = Holding(0, 0), Holding(0, 1)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may spend; `None` means no limit of that kind, and at least one limit is set.

    Attributes:
        text: as typed.
        wall_seconds: seconds on the clock.
        gpu_seconds: GPUs held x seconds.
        cpu_seconds: CPU threads used x seconds.
        trials: finished trials; a repeat answered from the cache does not count.

    Example:
        >>> budget = Budget.parse("8gpu-h,200trials")
        >>> budget.gpu_seconds, budget.trials, budget.wall_seconds
        (28800.0, 200, None)
    """

    text: str
    wall_seconds: float | None = None
    gpu_seconds: float | None = None
    cpu_seconds: float | None = None
    trials: int | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "8gpu-h" or "30min,200trials".

        Raises:
            BudgetError: no unit, an unknown unit, a number that is not positive, or the same kind twice.

        >>> Budget.parse("30min,200trials").wall_seconds
        1800.0
        """
        limits: dict[str, float] = {}
        for part in _parts(text):
            kind, amount = _parse_limit(part, text)
            if kind in limits:
                raise BudgetError("a budget may limit each kind once", got=repr(text), do=f"Keep one {kind} limit.")
            limits[kind] = amount
        trials = limits.get("trials")
        if trials is not None and trials != int(trials):
            raise BudgetError("trials must be a whole number", got=repr(text), do="Type for example 200trials.")
        return cls(
            text=text.strip(),
            wall_seconds=limits.get("wall"),
            gpu_seconds=limits.get("gpu"),
            cpu_seconds=limits.get("cpu"),
            trials=None if trials is None else int(trials),
        )

    def limit_seconds(self, holding: Holding) -> float | None:
        """The wall-clock seconds this budget lasts for one process that holds so much; None: no time limit.

        Raises:
            BudgetError: GPU time is asked for where there is no GPU.

        >>> Budget.parse("8gpu-h").limit_seconds(Holding(gpus=4)) / 3600
        2.0
        """
        if self.gpu_seconds is not None and holding.gpus == 0:
            hours = self.gpu_seconds / 3600
            instead = f"{hours * holding.threads:g}cpu-h or {hours:g}h"
            raise BudgetError(
                "a budget in GPU time needs a GPU",
                got=f"{self.text!r} on a machine without one",
                do=f"Type the same in CPU time or on the clock: --budget {instead}.",
            )
        limits = [
            self.wall_seconds,
            None if self.gpu_seconds is None else self.gpu_seconds / holding.gpus,
            None if self.cpu_seconds is None else self.cpu_seconds / holding.threads,
        ]
        return min((limit for limit in limits if limit is not None), default=None)

    def plus(self, added: str) -> Budget:
        """This budget and more of the same: "8gpu-h" plus "+4gpu-h" is "12gpu-h".

        Args:
            added: one limit or several, each with its plus sign; seconds, minutes and hours of one kind add up.

        Raises:
            BudgetError: no plus sign, no such limit in this budget, or no budget at all.

        >>> Budget.parse("30min,200trials").plus("+50trials").text
        '30min,250trials'
        """
        parts = {_parse_limit(part, self.text)[0]: part for part in _parts(self.text)}
        example = f"Type for example +{next(iter(parts.values()))}, which doubles it."
        for more in _parts(added):
            if not more.startswith("+"):
                rule = f"what is added to a budget of {self.text} must begin with a plus sign"
                raise BudgetError(rule, got=repr(more), do=example)
            kind, _ = _parse_limit(more[1:], added)
            if kind not in parts:
                rule = f"a budget of {self.text} can only grow in its own unit"
                raise BudgetError(rule, got=repr(more), do=example)
            parts[kind] = _sum(parts[kind], more[1:])
        return Budget.parse(",".join(parts.values()))


def _parts(text: str) -> list[str]:
    return re.split(r"[,\s]+", text.strip())


def _sum(first: str, second: str) -> str:
    """Two limits of one kind as one, exactly, in the finer of their units."""
    amounts = [_number_and_unit(part) for part in (first, second)]
    finer = min((unit for _, unit in amounts), key=lambda unit: _UNITS[unit][1])
    total = Decimal(0)
    for number, unit in amounts:
        total += Decimal(number) * Decimal(_UNITS[unit][1]) / Decimal(_UNITS[finer][1])
    text = format(total, "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text) + finer


def _number_and_unit(part: str) -> tuple[str, str]:
    match = re.fullmatch(r"([\d.]+)\s*([a-zA-Z-]+)", part)
    assert match is not None, part
    unit = match[2].lower()
    return match[1], "trials" if unit == "trial" else unit


def _parse_limit(part: str, text: str) -> tuple[str, float]:
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-zA-Z-]*)", part)
    if match is None:
        raise BudgetError("a budget must be a number with a unit", got=repr(text), do=_EXAMPLE)
    number, unit = float(match[1]), match[2].lower()
    if unit == "trial":
        unit = "trials"
    if not unit:
        raise BudgetError("a budget must have a unit", got=repr(text), do=_EXAMPLE)
    if unit not in _UNITS:
        raise BudgetError(f"the unit of a budget must be one of {', '.join(_UNITS)}", got=repr(unit), do=_EXAMPLE)
    if number <= 0:
        raise BudgetError("a budget must be positive", got=repr(text), do=_EXAMPLE)
    kind, seconds = _UNITS[unit]
    return kind, number * seconds
