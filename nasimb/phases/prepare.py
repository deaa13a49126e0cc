"""Before anything is spent: load, check, and refuse what cannot work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nasimb.budget import Clock
from nasimb.data.task import Task
from nasimb.errors import BudgetError, InputError
from nasimb.nn.moments import given
from nasimb.phases.supernet import SMALLEST_STEPS
from nasimb.space import SearchSpace
from nasimb.supernet.base import Supernet
from nasimb.supernet.calibrate import calibrate
from nasimb.supernet.ranks import ONE_PROCESS, Ranks
from nasimb.supernet.train import Training

REFUSAL = "the budget must buy"
"""What a budget too small is refused with."""
SMALLEST_TRIALS = 2.7
"""In units of the largest: it twice (its heads are compared before the search), the smallest, and one in between."""
MARGIN, ALWAYS_SECONDS = 1.1, 1.4
"""Above what was measured, and what heads, latencies and the last files take whatever the images."""
MODELS_TESTED = 3.25
"""In units of the largest: it, the winner, the best of random, and the smallest."""


def choose_device(name: str, ranks: Ranks = ONE_PROCESS) -> torch.device:
    """The device that "auto", "cpu", "cuda" or "cuda:1" means here; each of several ranks has a GPU of its own.

    Raises:
        InputError: it does not exist, or is not for one rank alone.
    """
    if ranks.size > 1:
        name = _own_device(name, ranks)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError("the device must be auto, cpu or cuda[:number]", got=repr(name), do="Choose one.") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError("the device must be auto, cpu or cuda[:number]", got=repr(name), do="Choose one.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"the device {name} must exist", got=f"{torch.cuda.device_count()} CUDA devices", do="Use --device auto."
        )
    return device


def _own_device(name: str, ranks: Ranks) -> str:
    """The name of this rank's own device."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not gpus):
        return "cpu"
    if name.startswith("cuda:"):
        raise InputError(
            "each process of torchrun takes the GPU of its own number", got=f"device {name} for all", do="Say cuda."
        )
    if name in ("auto", "cuda") and ranks.local >= gpus:
        raise InputError(
            "each process of torchrun on a machine needs a GPU of its own",
            got=f"{gpus} GPUs for process {ranks.local}, counted from 0",
            do="Lower --nproc-per-node, or train with --device cpu.",
        )
    return f"cuda:{ranks.local}" if name in ("auto", "cuda") else name


@dataclass(frozen=True, slots=True)
class Probe:
    """Seconds of the units of work, measured before the run on its own data and device.

    Attributes:
        step_seconds: one training step of the super-network; 0 where none is trained.
        trial_seconds: scoring the largest subnet, heads not included.
        test_seconds: the largest subnet over the test split.
    """

    step_seconds: float
    trial_seconds: float
    test_seconds: float

    def smallest_budget_seconds(self, spent_seconds: float, share: float) -> float:
        """The least that gives a trained super-network, three candidates, and a tested winner with its baselines.

        Args:
            share: of what is left now that training takes, unless it needs more.
        """
        training = SMALLEST_STEPS * self.step_seconds
        search_and_test = SMALLEST_TRIALS * self.trial_seconds + MODELS_TESTED * self.test_seconds
        least = MARGIN * (training + search_and_test) + ALWAYS_SECONDS
        if training:
            least = max(least, (MARGIN * search_and_test + ALWAYS_SECONDS) / (1 - share))
        return spent_seconds + least


def probe(
    supernet: Supernet, training: Training | None, task: Task, *, batch_size: int, calibration: int, clock: Clock,
    device: torch.device,
) -> Probe:  # fmt: skip
    """Measure one step and one batch; nothing trained is kept."""
    space = supernet.space
    step_seconds = 0.0 if training is None else measure_step(training, clock, device)
    batch = task.target.subset(torch.arange(min(len(task.target), batch_size)))
    images_BCHW = next(iter(batch.batches(len(batch), device)))[0]
    with torch.no_grad():
        statistics = calibrate(supernet, space.largest(), images_BCHW)
        sweep = _seconds(lambda: supernet.features(images_BCHW, space.largest(), given(statistics)), clock, device)
    image_seconds = sweep / len(batch)
    # Calibration computes moments besides: about two plain sweeps an image.
    trial_seconds = image_seconds * (len(task.target) + 2 * calibration)
    return Probe(step_seconds, trial_seconds, image_seconds * len(task.test))


def measure_step(training: Training, clock: Clock, device: torch.device) -> float:
    """Seconds of one training step; decides its precision, where that is not given."""
    training.step(0.0)  # the first step also warms up
    return _seconds(lambda: training.step(0.0), clock, device)


def check_affordable(
    found: Probe, limit_seconds: float | None, spent_seconds: float, budget: str, share: float,
    buys: str = "a trained super-network, a few candidates and a tested winner",
) -> None:  # fmt: skip
    """Refuse a budget that cannot buy the smallest useful run.

    Args:
        share: as `Probe.smallest_budget_seconds` takes it.

    Raises:
        BudgetError: names the smallest budget that works.
    """
    smallest = found.smallest_budget_seconds(spent_seconds, share)
    if limit_seconds is not None and limit_seconds < smallest:
        raise BudgetError(
            f"{REFUSAL} {buys}",
            got=f"{budget}, that is {limit_seconds:.0f} s here",
            do=f"Give at least {rounded_up(smallest)} on this machine, or a smaller --space.",
        )


def check_space_fits(space: SearchSpace, task: Task) -> None:
    """Raise InputError where a space asks for more than the images can give."""
    if len(task.target.classes) < 2:
        raise InputError("there must be two classes at least", got=len(task.target.classes), do="Add a class.")
    strides = 1
    for stage in space.stages:
        strides *= stage.stride
    if space.resolutions[0] < strides:
        raise InputError(
            f"the smallest resolution of {space.name} must outlast its strides",
            got=f"{space.resolutions[0]} pixels under strides of {strides} in all",
            do="Raise resolutions or lower strides in the space.",
        )


def _seconds(work: Callable[[], object], clock: Clock, device: torch.device) -> float:
    """Median of three."""
    taken = []
    for _ in range(3):
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(clock() - start)
    return sorted(taken)[1]


def rounded_up(seconds: float, kind: str = "") -> str:
    """A budget a little above, as one would type it.

    Args:
        kind: "" for time on the clock, "gpu-" or "cpu-".
    """
    if seconds < 55:
        return f"{5 * (int(seconds) // 5 + 1)}{kind}s"
    if seconds < 3300:
        return f"{int(seconds) // 60 + 1}{kind}min"
    return f"{int(seconds / 360 + 1) / 10:g}{kind}h"
