"""NBN against batch norm where all weights are trained on the long-tailed target itself.

One plain residual network, the largest of the space, trained with cross entropy by SGD from the same weights in the
same order of images; only the norms that an arm is about differ. What the bias does is watched, since that is where the
published layer is odd: after its first step it hardly turns any more.

Shapes: B images, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasimb.assemble import Ground
from nasimb.bench.base import Conditions, Figure, made_with, spread
from nasimb.bench.norms import (
    ARMS,
    BASELINE,
    GROUPS,
    SHOWN,
    arm_space,
    figures,
    prepared,
    rarest,
    recalls,
    rows_for,
    units_of,
)
from nasimb.bench.rows import Rows
from nasimb.data import parse_dataset
from nasimb.data.augment import augment
from nasimb.data.task import Task
from nasimb.evaluate import predict_test
from nasimb.metrics import measure
from nasimb.nn.norms.nbn import NormalisedBatchNorm2d
from nasimb.space import SearchSpace
from nasimb.supernet import build_supernet
from nasimb.supernet.pixels import pixel_mean_and_std
from nasimb.supernet.plain_resnet import PlainBlock, PlainResNet
from nasimb.supernet.recipe import Recipe
from nasimb.supernet.sampling import batches_from, generator_for

SHOWN_IMAGES, MOST_EPOCHS = 60_000, 100
QUICK_STEPS = 3
RECIPE = Recipe(learning_rate=0.1, weight_decay=5e-4, sampling="natural")
USED = {"learning_rate", "momentum", "weight_decay", "batch_size", "warmup", "sampling", "shift"}
"""Of the recipe. Weight decay acts on all parameters, those of norms and the scalar included, and gradients are not
clipped, as in the published training."""
FILE = "norms_trained_rows.csv"


@dataclass(frozen=True, slots=True)
class Watched:
    """The bias of the last norm of the network.

    Attributes:
        first_length: after the first step.
        last_length: of the learned vector at the end.
        cosine: between both; None where one has no length.
        scale: the learned scalar of NBN at the end; None for batch norm.
    """

    first_length: float
    last_length: float
    cosine: float | None
    scale: float | None


def norms_trained(conditions: Conditions) -> Iterator[Figure]:
    """trained_*: test recalls after training on the target, arm minus batch norm; beta_turn_*: where the bias went."""
    config, ground = prepared(conditions)
    steps = QUICK_STEPS if conditions.quick else steps_for(len(ground.task.target))
    tail = rarest(ground.task.target.class_counts_K.tolist())
    rows = rows_for(conditions, FILE, ground, f"{steps} steps, {RECIPE.model_dump_json(include=USED)}")
    drawn, drawn_for = ground, config.seed
    for seed, arm, done in units_of(conditions, rows):
        if seed != drawn_for:
            drawn, drawn_for = prepared(conditions, seed)[1], seed
        start = conditions.clock()
        network, watched = train(conditions, drawn, arm, seed, steps, done)
        found = tested(network, drawn.task, conditions.device)
        seconds = conditions.clock() - start
        shown = {f"beta_{name}": getattr(watched, name) for name in ("first_length", "last_length", "cosine")}
        rows.append(
            {"seed": seed, "arm": arm, **recalls(found, tail), **shown, "scale": watched.scale, "seconds": seconds}
        )  # fmt: skip
    epochs = steps * RECIPE.batch_size / len(ground.task.target)
    said = f"all weights trained on the target with cross entropy, {steps} steps ({epochs:.3g} epochs)"
    found_figures = [*figures(rows, "trained", SHOWN, said), *bias_figures(rows, said)]
    yield from made_with(found_figures, data=parse_dataset(config.data).name, supernet="none")


def bias_figures(rows: Rows, said: str) -> Iterator[Figure]:
    """beta_turn_*: cosine of the last norm's learned bias after the first step with that at the end, by arm."""
    for arm in ARMS:
        cosines = rows.numbers("beta_cosine", arm=arm)
        if cosines and not np.isnan(cosines).any():
            found = spread(cosines)
            yield Figure(
                f"beta_turn_{arm}", float(np.mean(cosines)),
                f"cosine of beta after one step and at the end, last norm, mean and quartiles over seeds; {said}",
                unit="cosine", low=found.low, high=found.high, repetitions=len(cosines),
                detail={
                    "first_length": float(np.mean(rows.numbers("beta_first_length", arm=arm))),
                    "last_length": float(np.mean(rows.numbers("beta_last_length", arm=arm))),
                    "scale": None if ARMS[arm] is None else float(np.mean(rows.numbers("scale", arm=arm))),
                },
            )  # fmt: skip


def steps_for(num_images: int) -> int:
    """As many as show `SHOWN_IMAGES` images, but no image more often than `MOST_EPOCHS` times."""
    return max(1, min(SHOWN_IMAGES, MOST_EPOCHS * num_images) // RECIPE.batch_size)


def plain_network(space: SearchSpace, arm: str, task: Task, seed: int) -> nn.Sequential:
    """The largest network and its classifier: of the same seed, all arms start from the same weights."""
    mean_C, std_C = pixel_mean_and_std(task.target)
    generator = generator_for(seed, 0)
    baseline = arm_space(space, BASELINE)
    supernet = build_supernet(baseline, task.target.channels, task.target.num_classes, mean_C, std_C, generator)
    subnet = replace(baseline.largest(), taps=1)
    backbone = cast(PlainResNet, supernet.extract(subnet, None))
    spec = ARMS[arm]
    if spec is not None:
        replaced: list[NormalisedBatchNorm2d] = []
        norm_generator = generator_for(seed, 1)
        for block in cast("list[PlainBlock]", list(cast(nn.Sequential, backbone.stages[-1]))):
            replaced.append(spec.plain(subnet.widths[-1], norm_generator))
            block.norm2 = replaced[-1]
            if isinstance(block.shortcut, nn.Sequential):
                replaced.append(spec.plain(subnet.widths[-1], norm_generator))
                block.shortcut[1] = replaced[-1]
        if spec.scale != "layer":
            for layer in replaced:
                layer.scale = replaced[0].scale
    classifier = nn.Linear(supernet.feature_dim(subnet), task.target.num_classes, device="meta").to_empty(device="cpu")
    nn.init.normal_(classifier.weight, std=0.01, generator=generator)
    nn.init.zeros_(classifier.bias)
    return nn.Sequential(backbone, classifier).requires_grad_(True)


def train(
    conditions: Conditions, ground: Ground, arm: str, seed: int, steps: int, done: float
) -> tuple[nn.Sequential, Watched]:
    """The trained network in eval mode, and what its last bias did."""
    task, device = ground.task, conditions.device
    network = plain_network(ground.space, arm, task, seed).to(device).train()
    *_, last_block = cast(nn.Sequential, cast(PlainResNet, network[0]).stages[-1])
    last = cast(PlainBlock, last_block).norm2
    bias_C = cast(Tensor, last.bias)
    optimiser = torch.optim.SGD(
        network.parameters(), lr=RECIPE.learning_rate, momentum=RECIPE.momentum, weight_decay=RECIPE.weight_decay,
        nesterov=True,
    )  # fmt: skip
    labels_N, pad = task.target.labels_N, int(RECIPE.shift * task.target.size)
    positions = islice(batches_from(0, labels_N, RECIPE.sampling, RECIPE.batch_size, seed), steps)
    first_C = bias_C.detach().clone()
    for step, (images_BCHW, positions_B) in enumerate(task.target.stream(positions, device)):
        conditions.tick("norms_trained", done, f"{arm}, seed {seed}, step {step} of {steps}")
        for group in optimiser.param_groups:
            group["lr"] = RECIPE.learning_rate_at(step / steps)
        images_BCHW = augment(images_BCHW, generator_for(seed, 8, step), task.flip, pad)
        loss = F.cross_entropy(network(images_BCHW), labels_N[positions_B].to(device))
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        if step == 0:
            first_C = bias_C.detach().clone()
    return network.eval(), watched_bias(first_C, bias_C.detach(), getattr(last, "scale", None))


def watched_bias(first_C: Tensor, last_C: Tensor, scale: Tensor | None) -> Watched:
    """What to keep of a bias after the first step and at the end."""
    lengths = float(first_C.norm()), float(last_C.norm())
    cosine = float(F.cosine_similarity(first_C, last_C, dim=0)) if min(lengths) > 0 else None
    return Watched(*lengths, cosine, None if scale is None else float(scale.detach()))


def tested(network: nn.Sequential, task: Task, device: torch.device) -> dict[str, object]:
    """Recalls on the test split, by group and class."""
    head = network[1]
    predicted = predict_test(network[0], {"trained": head}, task.test, batch_size=500, device=device)["trained"]
    found = measure(predicted.predicted_N, task.test.labels_N.numpy(), task.target.class_counts_K.numpy())
    values: dict[str, object] = {group: getattr(found, group) for group in GROUPS if group != "tail"}
    return {**values, "recalls": found.recalls_K}
