"""How a super-network is trained: options and the learning rate schedule, no torch."""

from __future__ import annotations

from math import cos, pi
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from nasimb.spec import Spec

LONG_SECONDS = 240.0
"""Heuristic: from here on training on a CPU is a matter of thousands of steps rather than hundreds."""

Share = Annotated[float, Field(ge=0, lt=1)]


class Recipe(Spec):
    """Options of `Training`.

    Attributes:
        learning_rate: its peak, for the mean of the losses of a step's subnets.
        momentum: of SGD with Nesterov's look-ahead.
        weight_decay: of convolutions and the classifier; norm parameters and biases have none.
        batch_size: images a step, over all processes where torchrun starts several.
        accumulation: micro-batches that a step's images (under torchrun, a process's share of them) are split into;
            gradients are the mean over all images, memory is that of one micro-batch. Batch norms see a micro-batch at
            a time.
        sync_bn: batch norms of several processes under torchrun see the images of all of them, two short meetings a
            layer and pass: training follows the same curve as one process with the same batch_size. Off by default, as
            elsewhere: each process then normalises over its own share, so that N processes follow the curve of one with
            accumulation N times as high. Ask for it where shares are small. One process has nothing to synchronise.
        warmup: share of the schedule over which the learning rate rises in a straight line; cosine to 0 follows.
        label_smoothing: of the largest subnet's loss. The others learn from its soft labels alone.
        clip_norm: longest gradient over all parameters.
        random_subnets: trained in every step beside the largest and the smallest.
        ema_decay: of the moving average of the weights that `finished` returns; 0 returns the last weights.
        sampling: how often images of each class come: natural, balanced (every class the same) or sqrt (between).
        precision: auto measures a few steps of both and takes bfloat16 only where that is clearly faster.
        shift: furthest random shift of an image, as a share of its side (whole pixels, rounded down).

    The defaults suit a minute or two on a CPU; `suited` adapts those that were not given to more.
    """

    learning_rate: PositiveFloat = 0.4
    momentum: Share = 0.9
    weight_decay: NonNegativeFloat = 2e-3
    batch_size: PositiveInt = 64
    accumulation: PositiveInt = 1
    sync_bn: bool = False
    warmup: Share = 0.05
    label_smoothing: Share = 0.1
    clip_norm: PositiveFloat = 2.0
    random_subnets: NonNegativeInt = 1
    ema_decay: Share = 0.0
    sampling: Literal["natural", "balanced", "sqrt"] = "balanced"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    shift: Share = 0.125

    @model_validator(mode="after")
    def _pairs(self) -> Recipe:
        if self.accumulation > max(self.batch_size // 2, 1):
            raise ValueError(
                f"accumulation must leave each micro-batch two images or batch norm has no variance; got"
                f" {self.accumulation} micro-batches of {self.batch_size} images"
            )
        return self

    def suited(self, *, device_type: str, seconds: float | None) -> Recipe:
        """This recipe with everything that was not given chosen for a device and a time.

        Weight decay acts over about 1 / (learning_rate * weight_decay) steps, so longer training wants less of it.
        A GPU takes a large batch in the time of a small one; the learning rate grows with its square root. A
        second random subnet is for those who have the time: for a given time one and more steps did as well.

        Args:
            device_type: "cpu" or "cuda".
            seconds: that training may take; None where steps are counted instead.
        """
        chosen: dict[str, float] = {}
        if seconds is not None and seconds > LONG_SECONDS:
            chosen["weight_decay"] = 5e-4
        if device_type == "cuda":
            chosen |= {"batch_size": 256, "learning_rate": 0.8, "weight_decay": 5e-4, "random_subnets": 2}
        return self.model_copy(update={key: value for key, value in chosen.items() if key not in self.model_fields_set})

    def learning_rate_at(self, progress: float) -> float:
        """Learning rate at a share of the schedule in [0, 1]; never 0 during warm-up, 0 at the end."""
        if progress < self.warmup:
            return self.learning_rate * max(progress / self.warmup, 0.01)
        done = min((progress - self.warmup) / (1 - self.warmup), 1.0)
        return self.learning_rate * (1 + cos(pi * done)) / 2
