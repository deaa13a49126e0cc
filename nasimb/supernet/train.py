"""Training a super-network: the sandwich rule with in-place distillation, one step at a time.

Each step trains the largest and the smallest subnet and a few random ones on the same images (sandwich rule, Yu and
Huang 2019, arXiv 1903.05134). The largest learns from the labels; the others from its soft predictions (in-place
distillation, ibid.; resolution and norms are part of a subnet, as in BigNAS, arXiv 2003.11142). The gradient is the
mean over the subnets; each is backpropagated by itself, so that memory is that of the largest alone (and with
gradient accumulation that of the largest on a micro-batch).

Several processes (`Ranks`) train on one batch together: each takes the same subnets through its own images, and the sum
of their gradients, weighted by images, moves all of them alike.

Weight decay and momentum act on whole tensors, hence on slices that few subnets use too; the largest subnet uses
all but the norms that are not its own. Those are left alone in steps that do not use them.
Shapes: B images, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nasimb.data.augment import draw_moves, moved
from nasimb.data.base import ImageSet
from nasimb.data.transfer import send
from nasimb.errors import InputError, NotFiniteError, ResumeError
from nasimb.nn.moments import MomentsFor, OverRanks, batch_moments
from nasimb.space import SearchSpace, Subnet
from nasimb.supernet.base import Supernet
from nasimb.supernet.checkpoint import load_weights, read_tensors, write_tensors
from nasimb.supernet.precision import Precision, faster_precision
from nasimb.supernet.ranks import ONE_PROCESS, Ranks, micro_batches
from nasimb.supernet.recipe import Recipe as Recipe
from nasimb.supernet.sampling import batches_from, generator_for
from nasimb.supernet.sgd import descend

STATE_FILE = "training.safetensors"
STEPS_BETWEEN_CHECKS = 50


class Training:
    """A super-network in training. Call `step` until the budget ends, then `finished`.

    Every random choice follows from (seed, number of the step): after `save` and `resume` training continues bit
    for bit as if it had not stopped (on a CPU; GPU kernels add in varying order).

    Args:
        supernet: trained in place, moved to `device`.
        source: training images.
        recipe: options.
        seed: of the order of images, their augmentation and the random subnets.
        device: where to train.
        flip: whether a mirrored image keeps its label.
        ranks: which of several processes this is; each needs everything else alike, but for `device`.

    Attributes:
        steps_done: since the very first start.
        precision: float32 or bfloat16; None until the first step has decided what `auto` means here.

    Raises:
        InputError: a batch is too small for so many ranks.
    """

    def __init__(
        self, supernet: Supernet, source: ImageSet, recipe: Recipe, *, seed: int, device: torch.device, flip: bool,
        ranks: Ranks = ONE_PROCESS,
    ) -> None:  # fmt: skip
        self.supernet = supernet.to(device).train().requires_grad_(True)
        self.source, self.recipe, self.seed, self.device, self.flip = source, recipe, seed, device, flip
        self.ranks = ranks
        self._micro_batches = _micro_batches(recipe, ranks)
        self._own_B = torch.tensor([place for part in self._micro_batches for place in part])
        self._moments_for: MomentsFor = batch_moments
        if ranks.size > 1:
            self._moments_for = OverRanks(ranks.sum_, together=recipe.sync_bn)
        self.steps_done = 0
        self.precision: Precision | None = None
        if recipe.precision != "auto":
            self.precision = recipe.precision
        self._parameters = dict(supernet.named_parameters())
        self._momenta: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] | None = None
        if recipe.ema_decay:
            self._average = {name: tensor.detach().clone() for name, tensor in self._parameters.items()}
        self._batches: Iterator[tuple[Tensor, Tensor]] | None = None

    def step(self, progress: float) -> Tensor:
        """One sandwich step.

        Args:
            progress: share of the schedule that is over, in [0, 1]; time-driven training passes elapsed / allowed.

        Returns:
            The largest subnet's loss over the whole batch, a 0-d tensor on the device (no wait for the device is needed
            to go on).

        Raises:
            NotFiniteError: the loss is no longer finite (looked at every 50 steps).
            LostRank: another rank is gone; nothing of this step is done.
        """
        if self.precision is None:
            faster = faster_precision(self.supernet, max(map(len, self._micro_batches)), self.device)
            self.precision = self.ranks.from_first(faster)
        images_BCHW, labels_B = self._next_batch()
        loss = self._over_ranks(self._backward(images_BCHW, labels_B))
        if self.steps_done % STEPS_BETWEEN_CHECKS == 0 and not bool(torch.isfinite(loss)):
            failure = NotFiniteError(
                "the training loss must stay finite",
                got=f"{float(loss)} at step {self.steps_done}",
                do="Lower learning_rate.",
            )
            raise self.ranks.said_once(failure)
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), self.recipe.clip_norm)
        descend(
            self._parameters, self._momenta, learning_rate=self.recipe.learning_rate_at(progress),
            momentum=self.recipe.momentum, weight_decay=self.recipe.weight_decay,
        )  # fmt: skip
        self.steps_done += 1
        self._update_average()
        return loss

    def finished(self) -> Supernet:
        """A frozen copy in eval mode, with the averaged weights where the recipe asks for them."""
        finished = copy.deepcopy(self.supernet)
        if self._average is not None:
            finished.load_state_dict(self._average, strict=False)
        return finished.eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write everything that `resume` needs into one file of `folder`, which is replaced atomically."""
        tensors, state = self._state()
        write_tensors(folder / STATE_FILE, tensors, {"training": json.dumps({**state, **self._identity()})})

    def resume(self, folder: Path) -> None:
        """Continue what `save` wrote, with however many ranks; the others follow with `share`.

        Raises:
            InputError: the file is missing, damaged, or something else.
            ResumeError: it belongs to another space, recipe or seed.
        """
        tensors, metadata = read_tensors(folder / STATE_FILE)
        state = json.loads(metadata.get("training", "{}"))
        for what, value in self._identity().items():
            if state.get(what) != value:
                raise ResumeError(
                    f"a training can only be continued with the {what} it was started with",
                    got=f"{value}, but {folder / STATE_FILE} has {state.get(what)}",
                    do="Use the old one, or another folder.",
                )
        self._take(tensors, state, folder / STATE_FILE)

    def share(self) -> None:
        """Every rank goes on from where the first stands: a snapshot, or its fresh weights (a meeting of all).

        Weights drawn from one seed need not be the same on processors of different makes.
        """
        if self.ranks.size > 1:
            tensors, state = self._state()
            self._take(self.ranks.tensors_from_first(tensors), self.ranks.from_first(state), Path("the first rank"))

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What changes from step to step: tensors, and values that JSON can hold."""
        tensors = {f"supernet.{name}": tensor for name, tensor in self.supernet.state_dict().items()}
        tensors |= {f"momentum.{name}": tensor for name, tensor in self._momenta.items()}
        tensors |= {f"average.{name}": tensor for name, tensor in (self._average or {}).items()}
        return tensors, {"steps_done": self.steps_done, "precision": self.precision}

    def _take(self, tensors: dict[str, Tensor], state: dict[str, Any], path: Path) -> None:
        """Go on from what `_state` gave; `path` is where it is from."""
        load_weights(self.supernet, _under("supernet.", tensors), path)
        self._momenta = {name: tensor.to(self.device) for name, tensor in _under("momentum.", tensors).items()}
        if self._average is not None:
            self._average = {name: tensor.to(self.device) for name, tensor in _under("average.", tensors).items()}
        self.steps_done, self.precision, self._batches = state["steps_done"], state["precision"], None

    def _identity(self) -> dict[str, object]:
        return {
            "space": self.supernet.space.model_dump(mode="json"),
            "recipe": self.recipe.model_dump(mode="json"),
            "seed": self.seed,
        }

    def _next_batch(self) -> tuple[Tensor, Tensor]:
        """Augmented images and labels of this step, on the device: of the batch, what this rank computes."""
        labels_N, recipe = self.source.labels_N, self.recipe
        own_B = self._own_B
        if self._batches is None:
            batches = batches_from(self.steps_done, labels_N, recipe.sampling, recipe.batch_size, self.seed)
            self._batches = self.source.stream((positions[own_B] for positions in batches), self.device)
        images_BCHW, positions_B = next(self._batches)
        pad = int(recipe.shift * self.source.size)
        # Drawn for the whole batch: an image is moved alike whoever computes it.
        moves_3B = draw_moves(recipe.batch_size, generator_for(self.seed, 1, self.steps_done), self.flip, pad)
        return moved(images_BCHW, moves_3B[:, own_B]), send(labels_N[positions_B], self.device)

    def _backward(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Gradients of all subnets of this step, micro-batch after micro-batch; returns this rank's part of the loss.

        Both are weighted by images: over all ranks they sum to those of the mean over the batch.
        """
        space = self.supernet.space
        rng = np.random.default_rng([self.seed, 2, self.steps_done])
        largest, smallest = _random_norms(space.largest(), space, rng), _random_norms(space.smallest(), space, rng)
        students = [smallest, *(space.sample(rng) for _ in range(self.recipe.random_subnets))]
        losses = []
        sizes = [len(part) for part in self._micro_batches]
        micro_batches = (torch.split(tensor, sizes) for tensor in (images_BCHW, labels_B))
        for micro_BCHW, micro_labels_B in zip(*micro_batches, strict=True):
            weight = len(micro_BCHW) / self.recipe.batch_size
            losses.append(weight * self._sandwich(micro_BCHW, micro_labels_B, largest, students, weight))
        return torch.stack(losses).sum()

    def _over_ranks(self, loss: Tensor) -> Tensor:
        """Sums gradients and loss over the ranks, in one meeting."""
        if self.ranks.size == 1:
            return loss
        # The same on every rank, as are the subnets: what a step does not use has no gradient anywhere.
        gradients = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        summed = self.ranks.sum_(torch.cat([loss.reshape(1), *(gradient.flatten() for gradient in gradients)]))
        loss_1, *parts = torch.split(summed, [1, *(gradient.numel() for gradient in gradients)])
        torch._foreach_copy_(gradients, [part.view_as(old) for part, old in zip(parts, gradients, strict=True)])
        return loss_1[0]

    def _sandwich(
        self, images_BCHW: Tensor, labels_B: Tensor, largest: Subnet, students: list[Subnet], weight: float
    ) -> Tensor:
        """Adds `weight` times the gradients of these images; returns the largest's mean loss."""
        share = weight / (1 + len(students))
        logits_BK = self._logits(images_BCHW, largest)
        loss = F.cross_entropy(logits_BK, labels_B, label_smoothing=self.recipe.label_smoothing)
        torch.autograd.backward(loss * share)
        soft_labels_BK = logits_BK.detach().softmax(1)
        for subnet in students:
            torch.autograd.backward(F.cross_entropy(self._logits(images_BCHW, subnet), soft_labels_BK) * share)
        return loss.detach()

    def _logits(self, images_BCHW: Tensor, subnet: Subnet) -> Tensor:
        """logits_BK, float32 whatever the precision."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return cast(Tensor, self.supernet(images_BCHW, subnet, self._moments_for)).float()

    def _update_average(self) -> None:
        if self._average is None:
            return
        # A short memory at first, or the average would remember the starting weights.
        decay = min(self.recipe.ema_decay, (1 + self.steps_done) / (10 + self.steps_done))
        average = [self._average[name] for name in self._parameters]
        current = [parameter.detach() for parameter in self._parameters.values()]
        torch._foreach_lerp_(average, current, 1 - decay)


def _random_norms(subnet: Subnet, space: SearchSpace, rng: np.random.Generator) -> Subnet:
    """The subnet with norms drawn anew: norms have no size, so the sandwich rule must not favour the first listed."""
    return replace(subnet, norms=tuple(stage.norms[rng.integers(len(stage.norms))] for stage in space.stages))


def _micro_batches(recipe: Recipe, ranks: Ranks) -> list[range]:
    """What this rank computes of every batch, refused where a micro-batch would be too small."""
    parts, fewest = recipe.accumulation * ranks.size, 1 if recipe.sync_bn else 2
    if ranks.size > 1 and recipe.batch_size < fewest * parts:
        failure = InputError(
            f"batch_size must give each of {parts} micro-batches {fewest} images, or batch norm has no variance",
            got=f"{recipe.batch_size} images for {ranks.size} processes with accumulation {recipe.accumulation}",
            do="Raise batch_size, or start fewer processes.",
        )
        raise ranks.said_once(failure)
    return micro_batches(recipe.batch_size, recipe.accumulation, ranks, together=recipe.sync_bn)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
