"""What a step of super-network training costs: against plain steps of the very subnets that it trained.

Shapes: B images, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasimb.assemble import Ground, new_training
from nasimb.bench.base import Conditions, Figure, made_with, ratio_figure
from nasimb.bench.testbed import load_bench_ground
from nasimb.data.augment import augment
from nasimb.space import Subnet
from nasimb.supernet.recipe import Recipe
from nasimb.supernet.sampling import batches_from, generator_for
from nasimb.supernet.train import Training

STEPS, QUICK_STEPS = 4, 1
"""Steps a turn."""
EIGHT_NORMS = ("bn", "nbn", "gn", "ln", "in", "evonorm_s0", "evonorm_b0", "frn")
LONG_SECONDS = 3600.0
"""A training of this length: long enough for number formats to be measured and the better one taken."""


def sandwich_over_plain(conditions: Conditions) -> Iterator[Figure]:
    """sandwich_over_plain: a sandwich step / the sum of the plain training steps of its subnets, extracted."""
    config = conditions.config
    ground = load_bench_ground(conditions, config)
    steps = QUICK_STEPS if conditions.quick else STEPS
    turns = conditions.repetitions + 1
    recorded = _subnets_of_steps(new_training(config, ground, LONG_SECONDS), turns * steps)
    training = new_training(config, ground, LONG_SECONDS)
    training.step(0.0)  # measures number formats
    replayed = new_training(config, ground, LONG_SECONDS, training.precision)
    plain = [[_Plain.of(replayed, subnet) for subnet in step] for step in recorded]
    batches = _plain_batches(replayed, ground)
    for network in (network for step in plain for network in step):
        network.step(*next(batches))  # allocates momentum
    done = {"sandwich": 0, "plain": 0}

    def sandwich() -> None:
        for _ in range(steps):
            replayed.step(0.5)
            done["sandwich"] += 1

    def plain_steps() -> None:
        for _ in range(steps):
            for network in plain[done["plain"]]:
                network.step(*next(batches))
            done["plain"] += 1

    seconds = conditions.compare("sandwich_over_plain", {"sandwich": sandwich, "plain": plain_steps})
    figure = ratio_figure(
        "sandwich_over_plain", seconds, "sandwich", "plain", at_most=1.10,
        against="sandwich step / sum of plain training steps of the same extracted subnets, augmentation in both",
        detail={
            "steps": steps, "subnets": len(recorded[0]), "batch_size": replayed.recipe.batch_size,
            "space": ground.space.name, "precision": replayed.precision,
        },
    )  # fmt: skip
    yield from made_with([figure], supernet="fresh weights")


def norms_over_two(conditions: Conditions) -> Iterator[Figure]:
    """norms_over_two: a sandwich step with eight norms to choose from in every stage / with bn and nbn alone."""
    config = conditions.config
    ground = load_bench_ground(conditions, config)
    steps = QUICK_STEPS if conditions.quick else STEPS
    trainings = {
        "eight": new_training(config, _with_norms(ground, EIGHT_NORMS), LONG_SECONDS, "float32"),
        "two": new_training(config, _with_norms(ground, EIGHT_NORMS[:2]), LONG_SECONDS, "float32"),
    }

    def step(training: Training) -> None:
        for _ in range(steps):
            training.step(0.5)

    works = {name: partial(step, training) for name, training in trainings.items()}
    seconds = conditions.compare("norms_over_two", works)
    figure = ratio_figure(
        "norms_over_two", seconds, "eight", "two",
        against="sandwich step of a space with eight norms a stage / with bn and nbn, all else alike",
        detail={"steps": steps, "batch_size": trainings["two"].recipe.batch_size, "space": ground.space.name},
    )  # fmt: skip
    yield from made_with([figure], supernet="fresh weights")


def _with_norms(ground: Ground, norms: tuple[str, ...]) -> Ground:
    stages = tuple(stage.model_copy(update={"norms": norms}) for stage in ground.space.stages)
    return replace(ground, space=ground.space.model_copy(update={"stages": stages, "norm_options": ()}))


def _subnets_of_steps(training: Training, steps: int) -> list[list[Subnet]]:
    """Which subnets the first steps train; they follow from the seed and the number of the step."""
    training.precision = training.precision or "float32"
    found: list[list[Subnet]] = []
    hook = training.supernet.register_forward_pre_hook(lambda module, given: found[-1].append(given[1]))
    for _ in range(steps):
        found.append([])
        training.step(0.5)
    hook.remove()
    return found


@dataclass(frozen=True, eq=False)
class _Plain:
    """One subnet by itself, with what trains it."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    recipe: Recipe
    device: torch.device
    bfloat16: bool

    @classmethod
    def of(cls, training: Training, subnet: Subnet) -> _Plain:
        supernet, recipe = training.supernet, training.recipe
        classifier = nn.Linear(supernet.feature_dim(subnet), supernet.num_classes, device="meta").to_empty(device="cpu")
        for parameter in classifier.parameters():
            nn.init.normal_(parameter, std=0.01, generator=generator_for(training.seed, 9))
        network = nn.Sequential(supernet.extract(subnet, None), classifier).to(training.device)
        network.train().requires_grad_(True)
        optimiser = torch.optim.SGD(
            network.parameters(), lr=recipe.learning_rate / 100, momentum=recipe.momentum,
            weight_decay=recipe.weight_decay, nesterov=recipe.momentum > 0, foreach=True,
        )  # fmt: skip
        return cls(network, optimiser, recipe, training.device, training.precision == "bfloat16")

    def step(self, images_BCHW: Tensor, labels_B: Tensor) -> None:
        """Forward, backward, update."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits_BK = self.network(images_BCHW)
        loss = F.cross_entropy(logits_BK.float(), labels_B, label_smoothing=self.recipe.label_smoothing)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def _plain_batches(training: Training, ground: Ground) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented images and their labels on the device, without end, as a plain training would draw them."""
    source, recipe, device = training.source, training.recipe, training.device
    positions = batches_from(0, source.labels_N, recipe.sampling, recipe.batch_size, training.seed)
    pad = int(recipe.shift * source.size)
    for number, (images_BCHW, positions_B) in enumerate(source.stream(positions, device)):
        generator = generator_for(training.seed, 8, number)
        labels_B = source.labels_N[positions_B].to(device, non_blocking=True)
        yield augment(images_BCHW, generator, ground.task.flip, pad), labels_B
