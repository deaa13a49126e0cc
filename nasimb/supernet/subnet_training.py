"""Training one subnet of a super-network fully, with a classifier of its own, one step at a time.

The subnet is trained where it lies: what it does not use gets no gradient that matters to it. It normalises with batch
statistics, whatever its norms, and ends with the exact moments of training images.
Shapes: B images, C channels, H and W pixels, D features, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from nasimb.data.augment import draw_moves, moved
from nasimb.data.base import ImageSet
from nasimb.data.transfer import send
from nasimb.errors import InputError, NotFiniteError, ResumeError
from nasimb.losses.base import LossSpec, loss_at
from nasimb.space import Subnet
from nasimb.spec import Spec
from nasimb.supernet.base import Supernet
from nasimb.supernet.calibrate import calibrate, calibration_positions
from nasimb.supernet.checkpoint import load_weights, read_tensors, write_tensors
from nasimb.supernet.ranks import ONE_PROCESS
from nasimb.supernet.recipe import Recipe
from nasimb.supernet.sampling import batches_from, generator_for
from nasimb.supernet.sgd import descend
from nasimb.supernet.train import STATE_FILE, STEPS_BETWEEN_CHECKS

INHERITED_RATE, FRESH_RATE = 0.02, 0.1
"""Peak learning rates where none is given: what is learned already is to be kept (heuristic)."""
FIRST_DEVIATION = 0.01
Share = Annotated[float, Field(ge=0, lt=1)]


class SubnetRecipe(Spec):
    """SGD with Nesterov's look-ahead; the learning rate rises in a line, then falls as a cosine to 0.

    Attributes:
        learning_rate: its peak; None: 0.1 for fresh weights, 0.02 for inherited ones.
        weight_decay: of convolutions and the classifier; norm parameters and biases have none.
        warmup: share of the schedule over which the learning rate rises.
        clip_norm: longest gradient over all parameters.
        sampling: how often images of each class come; see `Recipe`.
        shift: furthest random shift of an image, as a share of its side.
        precision: number format of forward and backward; weights and statistics are float32.
    """

    learning_rate: PositiveFloat | None = None
    momentum: Share = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    batch_size: Annotated[int, Field(ge=2)] = 64
    warmup: Share = 0.05
    clip_norm: PositiveFloat = 2.0
    sampling: Literal["natural", "balanced", "sqrt"] = "natural"
    shift: Share = 0.125
    precision: Literal["float32", "bfloat16"] = "float32"


class SubnetTraining:
    """A subnet and its classifier in training. Call `step` until the budget ends, then `network`.

    Every random choice follows from (seed, number of the step), so that what `save` wrote goes on bit for bit (CPU).

    Args:
        supernet: the subnet's part of it is trained in place, moved to `device`.
        first: weight_KD and bias_K that the classifier begins with; None: small random ones.
        fresh: whether the weights of the super-network are random, for the learning rate.

    Attributes:
        steps_done: since the very first start.
        classifier: a linear one; for losses that expect cosines its rows and the features are brought to length 1.

    Raises:
        InputError: a class without images, where the loss needs counts.
    """

    ranks = ONE_PROCESS

    def __init__(
        self, supernet: Supernet, subnet: Subnet, images: ImageSet, loss: LossSpec, recipe: SubnetRecipe, *,
        seed: int, device: torch.device, flip: bool, fresh: bool, first: tuple[Tensor, Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.supernet, self.subnet, self.images, self.loss = supernet, subnet, images, loss
        rate = recipe.learning_rate or (FRESH_RATE if fresh else INHERITED_RATE)
        self.recipe, self.seed, self.device, self.flip = recipe, seed, device, flip
        self.steps_done = 0
        self.classifier = _classifier(supernet.feature_dim(subnet), images.num_classes, seed, first)
        self._schedule = Recipe(learning_rate=rate, warmup=recipe.warmup)
        self._phases = loss.phases(images.class_counts_K)
        both = nn.ModuleDict({"supernet": supernet, "classifier": self.classifier})
        self._both = both.to(device).train().requires_grad_(True)
        self._parameters, self._momenta = dict(self._both.named_parameters()), dict[str, Tensor]()
        self._batches: Iterator[tuple[Tensor, Tensor]] | None = None

    def step(self, progress: float) -> Tensor:
        """One step of SGD; the loss of its batch.

        Args:
            progress: share of the schedule that is over, in [0, 1].

        Raises:
            NotFiniteError: the loss is no longer finite (looked at every 50 steps).
        """
        images_BCHW, labels_B = self._next_batch()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            logits_BK = self._logits(self.supernet.features(images_BCHW, self.subnet))
        loss = loss_at(self._phases, progress)(logits_BK.float(), labels_B)
        if self.steps_done % STEPS_BETWEEN_CHECKS == 0 and not bool(torch.isfinite(loss)):
            got, do = f"{float(loss)} at step {self.steps_done}", "Lower learning_rate."
            raise NotFiniteError("the training loss must stay finite", got=got, do=do)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), self.recipe.clip_norm)
        descend(
            self._parameters, self._momenta, learning_rate=self._schedule.learning_rate_at(progress),
            momentum=self.recipe.momentum, weight_decay=self.recipe.weight_decay,
        )  # fmt: skip
        self.steps_done += 1
        return loss.detach()

    @torch.no_grad()
    def network(self, limit: int) -> tuple[nn.Module, Tensor, Tensor]:
        """The extracted backbone with the moments of up to `limit` images, and weight_KD and bias_K."""
        positions_B = calibration_positions(self.images, "natural", seed=self.seed, limit=limit)
        seen_BCHW = self.images.store.read(self.images.indices_N[positions_B], self.device)
        backbone = self.supernet.extract(self.subnet, calibrate(self.supernet, self.subnet, seen_BCHW))
        weight_KD, bias_K = (tensor.detach().clone() for tensor in (self.classifier.weight, self.classifier.bias))
        return backbone.eval().requires_grad_(False), weight_KD, bias_K

    def save(self, folder: Path) -> None:
        """Write everything that `resume` needs into one file of `folder`, which is replaced atomically."""
        tensors = {f"network.{name}": tensor for name, tensor in self._both.state_dict().items()}
        tensors |= {f"momentum.{name}": tensor for name, tensor in self._momenta.items()}
        state = {"steps_done": self.steps_done, "identity": self._identity()}
        write_tensors(folder / STATE_FILE, tensors, {"training": json.dumps(state)})

    def resume(self, folder: Path) -> None:
        """Continue what `save` wrote.

        Raises:
            InputError: the file is damaged. ResumeError: it is of another subnet, recipe, loss or seed.
        """
        file = folder / STATE_FILE
        tensors, metadata = read_tensors(file)
        state = json.loads(metadata.get("training", "{}"))
        if state.get("identity") != self._identity():
            do = "Use the same options, or another --out."
            raise ResumeError("a training goes on with what it was started with", got=f"another in {file}", do=do)
        own = {"network": dict[str, Tensor](), "momentum": dict[str, Tensor]()}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            own[kind][rest] = tensor
        load_weights(self._both, own["network"], file)
        self._momenta = {name: tensor.to(self.device) for name, tensor in own["momentum"].items()}
        self.steps_done, self._batches = state["steps_done"], None

    def _identity(self) -> list[object]:
        recipe, loss = self.recipe.model_dump(mode="json"), self.loss.model_dump(mode="json")
        return [self.subnet.to_dict(), recipe, loss, self.seed, self._schedule.learning_rate]

    def _logits(self, features_BD: Tensor) -> Tensor:
        if self.loss.cosine:
            return linear(normalize(features_BD, dim=1), normalize(self.classifier.weight, dim=1))
        logits_BK: Tensor = self.classifier(features_BD)
        return logits_BK

    def _next_batch(self) -> tuple[Tensor, Tensor]:
        labels_N, recipe = self.images.labels_N, self.recipe
        if self._batches is None:
            positions = batches_from(self.steps_done, labels_N, recipe.sampling, recipe.batch_size, self.seed)
            self._batches = self.images.stream(positions, self.device)
        images_BCHW, positions_B = next(self._batches)
        pad = int(recipe.shift * self.images.size)
        moves_3B = draw_moves(len(images_BCHW), generator_for(self.seed, 1, self.steps_done), self.flip, pad)
        return moved(images_BCHW, moves_3B), send(labels_N[positions_B], self.device)


def _classifier(dimension: int, num_classes: int, seed: int, first: tuple[Tensor, Tensor] | None) -> nn.Linear:
    module = nn.Linear(dimension, num_classes, device="meta").to_empty(device="cpu")
    if first is None:
        nn.init.normal_(module.weight, std=FIRST_DEVIATION, generator=generator_for(seed, 11))
        nn.init.zeros_(module.bias)
        return module
    if first[0].shape != module.weight.shape:
        got, do = list(first[0].shape), "Let the classifier begin with random weights."
        raise InputError(f"the first classifier must be {list(module.weight.shape)}", got=got, do=do)
    with torch.no_grad():
        module.weight.copy_(first[0])
        module.bias.copy_(first[1])
    return module
