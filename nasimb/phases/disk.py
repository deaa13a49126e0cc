"""Before work starts: whether the disk of the run folder has room for what the run will write.

Estimates, and on the high side: a run that is refused for a few MiB would have been close to a full disk in any case.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from nasimb.cost.macs import macs_and_params
from nasimb.errors import InputError
from nasimb.phases.comparison import LARGE_PROBLEM
from nasimb.space import SearchSpace

MARGIN = 1.2
FLOAT_BYTES = 4
SNAPSHOT_TENSORS = 3
"""Of a training: weights, momentum, their average."""
FIT_TENSORS, MODELS = 24, 5
"""Of a large head's fit under way: its point, gradient and the last steps (L-BFGS); and heads that are kept."""
LINE_BYTES = 200
"""Of one beat in the ledger, one image in predictions.csv or in the hashes of what the super-network has seen."""
ROW_BYTES, CHOICE_BYTES = 1500, 300
"""Of one trial in trials.csv and Optuna's journal: whatever the space, and for each of its choices (measured: 300)."""
CHEAPER = 4
"""An average candidate costs a quarter of the largest subnet: it is smaller, and shares its first blocks."""
QUICKEST_SECONDS = 0.02
REPEATS = 1.3
"""Rows for one trial that counts: repeats and what is over a limit have rows too."""
LEAST_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Writing:
    """What decides how much a run will write.

    Attributes:
        training: whether it trains the super-network.
        images: of all its sets.
        calibration_bytes: of the images that are kept to calibrate with.
        trials: most it may score; None: as many as there is time for.
        seconds: most it may take; None: no limit of time.
        trial_seconds: of the largest subnet; 0 where it was not measured, or nothing is searched.
    """

    space: SearchSpace
    channels: int
    classes: int
    training: bool
    images: int
    calibration_bytes: int
    trials: int | None
    seconds: float | None
    trial_seconds: float = 0.0

    def needed_bytes(self) -> float:
        """In all, at the fullest moment: what is replaced and its successor are there together for a while."""
        space = self.space
        weights = FLOAT_BYTES * macs_and_params(space, space.largest(), self.channels)[1]
        supernet = (2 * SNAPSHOT_TENSORS + 1) * weights + self.calibration_bytes if self.training else 0
        head_numbers = self.classes * sum(max(stage.widths) for stage in space.stages)
        fitting = 2 * FIT_TENSORS if self.images * head_numbers > LARGE_PROBLEM else 0
        heads = FLOAT_BYTES * head_numbers * (fitting + MODELS)
        rows = REPEATS * self._trials() * (ROW_BYTES + CHOICE_BYTES * len(space.choices()))
        lines = LINE_BYTES * (2 * self.images + (self.seconds or 0.0))
        return LEAST_BYTES + MARGIN * (supernet + 2 * weights + heads + rows + lines)

    def _trials(self) -> float:
        found = [] if self.trials is None else [float(self.trials)]
        if self.seconds is not None and self.trial_seconds:
            found.append(self.seconds / max(self.trial_seconds / CHEAPER, QUICKEST_SECONDS))
        return min(found, default=0.0)


def check_room(folder: Path, needed_bytes: float) -> None:
    """Refuse to begin, or to go on, what will fill the disk; what the folder holds already is not asked for again.

    Raises:
        InputError: names both amounts.
    """
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    missing, free = max(needed_bytes - there, LEAST_BYTES), shutil.disk_usage(folder).free
    if free < missing:
        raise InputError(
            "the disk of the run folder must have room for what the run writes",
            got=f"{free / 2**20:.1f} MiB free for {folder}, of about {missing / 2**20:.1f} MiB",
            do="Make space, or choose a folder on another disk with --run.",
        )
