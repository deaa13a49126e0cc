"""Figures, and how they are measured: works in turn, in one process, on an injected clock.

Turns alternate so that whatever else the machine does slows all works alike. A ratio is taken turn by turn and the
median of these is reported, with their quartiles: a disturbance that lasts longer than a turn cancels within it, and a
shorter one is an outlier that a median ignores. (A ratio of two medians may pair a quiet turn with a busy one.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from nasimb.budget import Clock
from nasimb.config import RunConfig
from nasimb.errors import Interrupted
from nasimb.progress import Progress, Watcher
from nasimb.session import Stop


class Skipped(Exception):
    """A figure that cannot be measured here; the message says why in a sentence."""


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        figure: its name.
        value: None where there is none; then `reason` says why.
        against: what was measured, in words; of a ratio what stands above and below.
        unit: "ratio", "ms", "GiB", "points" (of a hundred), "tau".
        at_most, at_least: what it should be; None: it is reported whatever it is.
        low, high: quartiles over the repetitions.
        repetitions: timed turns, trials, seeds or subnets, as `against` says; warm-up not counted.
        detail: raw medians and sizes behind it, names with units.
        failed: whether the measurement failed (and was not just left out).
        provenance: what does not hold of this figure in the provenance that all of a command share, and what does.
    """

    figure: str
    value: float | None
    against: str
    unit: str = "ratio"
    at_most: float | None = None
    at_least: float | None = None
    low: float | None = None
    high: float | None = None
    repetitions: int = 1
    detail: Mapping[str, float | str | None] = field(default_factory=dict)
    reason: str | None = None
    failed: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """What it should be, in short: "<= 1.25", or nothing."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return "" if self.at_least is None else f">= {self.at_least:g}"

    @property
    def met(self) -> bool | None:
        """Whether it is what it should be; None where nothing is asked or there is no number."""
        if self.value is None or not math.isfinite(self.value) or not self.target:
            return None
        if self.at_most is not None:
            return self.value <= self.at_most
        assert self.at_least is not None
        return self.value >= self.at_least

    def to_record(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """An entry of the JSON file; numbers that are not finite become null, since JSON has none."""
        lost = self.value is not None and not math.isfinite(self.value)
        values = {
            "figure": self.figure, "value": _finite(self.value), "against": self.against, "unit": self.unit,
            "target": self.target or None, "met": self.met, "low": _finite(self.low), "high": _finite(self.high),
            "repetitions": self.repetitions, "reason": f"The value is {self.value}." if lost else self.reason,
            "detail": {name: _finite(value) for name, value in self.detail.items()},
        }  # fmt: skip
        return {**values, **provenance, **self.provenance}


@dataclass(frozen=True, eq=False)
class Conditions:
    """What figures are measured under.

    Attributes:
        config: data, super-network, space and seed, as of a search.
        synthetic: no data were named: random pixels will do where their content does not matter, else digits.
        space: for random pixels, and for what needs no images at all.
        images: most target images; None: each benchmark's own choice.
        repetitions: timed turns of every comparison.
        seeds: searches with and without screening, a pair a seed; networks that are adapted.
        quick: small sizes, for a first look and for tests: such figures say little.
        large: also measure what takes minutes and gigabytes of disk.
        folder: where long measurements keep their rows, to go on after an interruption; None: nowhere.
        clock: seconds; wall clock, or processor time on a busy machine.
        clock_name: which of them, for a reader.
        stop: the number of the signal that asks to stop; 0 while none has come.
        started: seconds on the clock when all began.
    """

    config: RunConfig
    synthetic: bool
    space: str
    images: int | None
    device: torch.device
    repetitions: int
    quick: bool
    large: bool
    folder: Path | None
    clock: Clock
    watcher: Watcher
    stop: Stop
    started: float = 0.0
    seeds: int = 5
    clock_name: str = "wall clock"

    def tick(self, what: str, fraction: float, detail: str = "") -> None:
        """Call after every unit of work: shows where the measurement stands, and obeys a signal.

        Raises:
            Interrupted: a signal has come.
        """
        self.watcher.show(Progress(what, fraction, self.clock() - self.started, None, detail))
        signal_number = self.stop()
        if signal_number:
            raise Interrupted(signal_number, resume="Give the same command again.")

    def compare(self, what: str, works: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
        """`alternate` under these conditions."""
        turns = (self.repetitions + 1) * len(works)
        done = iter(range(turns))
        return alternate(
            works,
            self.repetitions,
            self.clock,
            lambda: synchronise(self.device),
            between=lambda: self.tick(what, next(done) / turns),
        )


Measure = Callable[[Conditions], Iterator[Figure]]
"""Yields figures; raises `Skipped` where it cannot be measured here."""


def alternate(
    works: Mapping[str, Callable[[], object]],
    repetitions: int,
    clock: Clock,
    synchronise: Callable[[], None] = lambda: None,
    between: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of every work in every turn, by name; before them one turn that only warms up.

    Every second turn goes the other way round, so that no work always comes after the same other.

    Args:
        synchronise: waits until the device has done what it was given; called around every work.
        between: called before every work, outside its time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repetitions + 1):
        for name in works if turn % 2 else reversed(list(works)):
            between()
            synchronise()
            start = clock()
            works[name]()
            synchronise()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def synchronise(device: torch.device) -> None:
    """Wait for a GPU; nothing to do on a processor."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles (linear interpolation)."""
    low, median, high = np.quantile(np.asarray(values, dtype=float), [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high))


def ratio(seconds: Mapping[str, Sequence[float]], above: str, below: str) -> Spread:
    """Median and quartiles of above / below, turn by turn."""
    return spread([a / b for a, b in zip(seconds[above], seconds[below], strict=True)])


def ratio_figure(
    name: str, seconds: Mapping[str, Sequence[float]], above: str, below: str, *, against: str,
    at_most: float | None = None, at_least: float | None = None, detail: Mapping[str, float | str | None],
) -> Figure:  # fmt: skip
    """The figure above / below; the median seconds of every work come before its `detail`."""
    found = ratio(seconds, above, below)
    medians = {f"{work}_seconds": float(np.median(taken)) for work, taken in seconds.items()}
    return Figure(
        name, found.median, against, at_most=at_most, at_least=at_least, low=found.low, high=found.high,
        repetitions=len(seconds[above]), detail={**medians, **detail},
    )  # fmt: skip


def made_with(figures: Iterable[Figure], **provenance: str) -> Iterator[Figure]:
    """The same figures, each with what the command's provenance says wrongly of them put right."""
    for figure in figures:
        yield replace(figure, provenance={**figure.provenance, **provenance})


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
