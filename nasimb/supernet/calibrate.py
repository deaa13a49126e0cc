"""Calibration: the batch norm statistics of one subnet, estimated layer by layer on a fixed set of images.

Shapes: B images, N images of a set, K classes, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nasimb.data.base import ImageSet
from nasimb.errors import InputError, unknown_name
from nasimb.nn.elastic import ElasticNorm
from nasimb.nn.estimators import Estimator, Kept, Mixed, Pooled, Running
from nasimb.nn.moments import Moments, Statistics
from nasimb.space import Subnet
from nasimb.supernet.base import Supernet, images_at_a_time
from nasimb.supernet.sampling import Sampling, class_shares, draw, generator_for

UPDATE_IMAGES = 128
"""Images of one batch of `update`, as of a training."""
LEAST_MIXED = 2
"""Independent images of the target that `mixed` needs: a single one does not say how images differ."""
SOURCE_DRAW, TARGET_DRAW = 3, 10
"""Keys of the generators that draw either side: where both are of one set, they are not the very same images."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Where statistics come from.

    Attributes:
        target: class shares of the target's images; None: it sees none.
        source: how many of the source's images it sees; None: all there are.
        estimator: of a layer, by its key.
        batch: images of a part of the target, where the statistics depend on it.
        least: what the target's images must be worth at least, see `independent`.
    """

    target: Sampling | None
    source: int | None
    estimator: Callable[[Calibration, str], Estimator]
    batch: int | None = None
    least: int = 0


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the layers of any subnet get their statistics from: a policy, and the images it sees.

    Attributes:
        source_BCHW, target_BCHW: uint8, on the device; each of length 0 where the policy sees none.
        target_worth: how many independent images those of the target are worth: copies of one say nothing new.
        inherited: by layer, of the largest subnet; only `inherit` looks at it.
    """

    policy: Policy
    source_BCHW: Tensor
    target_BCHW: Tensor
    target_worth: int
    inherited: Statistics = field(default_factory=dict)

    @classmethod
    def on(cls, images_BCHW: Tensor) -> Calibration:
        """The moments over these images together."""
        return cls(CALIBRATIONS["source"], images_BCHW, images_BCHW[:0], 0)

    def __len__(self) -> int:
        """Images that pass through a subnet."""
        return len(self.source_BCHW) + len(self.target_BCHW)

    def limited(self, most: int) -> Calibration:
        """The same with at most so many images of each side, to measure what it takes."""
        target_BCHW = self.target_BCHW[: whole_batches(min(most, len(self.target_BCHW)), self.policy.batch)]
        worth = min(self.target_worth, len(target_BCHW))
        return replace(self, source_BCHW=self.source_BCHW[:most], target_BCHW=target_BCHW, target_worth=worth)

    def images(self) -> Tensor:
        """All of them, the source's first: uint8 images_BCHW."""
        return torch.cat([self.source_BCHW, self.target_BCHW])

    def parts(self, supernet: Supernet, most: int | None = None) -> list[Tensor]:
        """The images as `Supernet.settle` takes them, at most so many at a time; None: as many as are quick.

        Batches whose moments count one by one stay as they are, whatever `most` says.
        """
        most = most or images_at_a_time(supernet.space, self.source_BCHW.device)
        sides = ((self.source_BCHW, most), (self.target_BCHW, self.policy.batch or most))
        return [part for side_BCHW, length in sides if len(side_BCHW) for part in torch.split(side_BCHW, length)]

    def estimator(self, key: str) -> Estimator:
        """Of the layer with this key."""
        return self.policy.estimator(self, key)


CALIBRATIONS: dict[str, Policy] = {
    "source": Policy(None, None, lambda calibration, key: Pooled()),
    "target-natural": Policy("natural", 0, lambda calibration, key: Pooled()),
    "target-balanced": Policy("balanced", 0, lambda calibration, key: Pooled()),
    "mixed": Policy(
        "balanced",
        None,
        lambda calibration, key: Mixed(len(calibration.source_BCHW), calibration.target_worth),
        least=LEAST_MIXED,
    ),
    "inherit": Policy(None, 1, lambda calibration, key: Kept(calibration.inherited[key])),
    "reset": Policy(None, 1, lambda calibration, key: Kept(None)),
    "update": Policy("natural", None, lambda calibration, key: Running(len(calibration.source_BCHW)), UPDATE_IMAGES),
}
"""Policies by name.

- source: the moments of class-balanced images of the source.
- target-natural, target-balanced: of the target's images, in their own class shares or each class equally often.
- mixed: of a mixture of source and target, each layer with its own weight (`nasimb.nn.mixing`); both pass side by side,
  so that every layer sees inputs normalised with the mixture. Classes are balanced on both sides: otherwise the long
  tail itself would count as a shift. On CIFAR-10-LT from CIFAR-100 that gained 0.3 points of test balanced accuracy and
  2.3 of few-shot recall over the target as it is (2,500 images; means of 8 pairs of subnet and draw).
- inherit: the leading channels of the largest subnet's statistics on the source, for want of a super-network's own:
  what comes of statistics that belong to another network.
- reset: mean 0 and variance 1, that is no statistics: what a network has that nobody calibrated.
- update: running averages that start from `source` and see the target in batches: what a fine-tuning leaves that does
  not freeze them. Batches are all of one size, as in training: what is left over after the last is not seen, since a
  batch of few images would count as much as a whole one. A target smaller than a batch is one.

Those of the target alone see the same of its images as those of both sides.
"""


@torch.no_grad()
def calibrate(supernet: Supernet, subnet: Subnet, calibration: Calibration | Tensor) -> Statistics:
    """Statistics of every layer of `subnet`, layer by layer.

    Each layer normalises with the moments it records, so that every layer sees the inputs it will see afterwards.
    All images together, because averages of the variances of several batches leave out the variance between their
    means; but in parts that fit the processor's cache, which takes half the time. The result depends on the arguments
    alone: the super-network holds no statistics that could change.

    Args:
        calibration: policy and images; or uint8 images_BCHW, whose moments over all of them are wanted.
    """
    if isinstance(calibration, Tensor):
        calibration = Calibration.on(calibration)
    statistics: dict[str, Moments] = {}
    parts = calibration.parts(supernet)
    for step in supernet.steps(subnet):
        settled, parts = supernet.settle(step, parts, calibration.estimator)
        statistics.update(settled)
    return statistics


def make_calibrations(
    policies: Iterable[str], supernet: Supernet, source_BCHW: Tensor, target: ImageSet, *, seed: int,
    device: torch.device, limit: int,
) -> dict[str, Calibration]:  # fmt: skip
    """What these policies calibrate with, by name; the same for every subnet.

    Args:
        supernet: whose largest subnet `inherit` calibrates here.
        source_BCHW: class-balanced images of its source.
        limit: most images of each side.

    Raises:
        InputError: no such policy, or one that needs more of the target than there is.
    """
    found: dict[str, Calibration] = {}
    for name in policies:
        policy = _policy(name)
        sources_BCHW = source_BCHW[: limit if policy.source is None else policy.source].to(device)
        target_BCHW, worth = sources_BCHW[:0], 0
        if policy.target is not None:
            positions_B = _target_positions(name, target, seed=seed, limit=limit)
            target_BCHW, worth = target.store.read(target.indices_N[positions_B], device), independent(positions_B)
        inherited = inherited_statistics(supernet, source_BCHW.to(device)) if name == "inherit" else {}
        found[name] = Calibration(policy, sources_BCHW, target_BCHW, worth, inherited)
    return found


def check_target(policies: Iterable[str], target: Callable[[], ImageSet], *, seed: int, limit: int) -> None:
    """What `make_calibrations` will refuse, found without a super-network and without reading an image.

    Args:
        target: asked only where a policy may be refused: its images may have to be split first.

    Raises:
        InputError: as `make_calibrations`.
    """
    demanding = [name for name in policies if _policy(name).least]
    if demanding:
        images = target()
        for name in demanding:
            _target_positions(name, images, seed=seed, limit=limit)


def _policy(name: str) -> Policy:
    if name not in CALIBRATIONS:
        raise unknown_name("calibration", name, CALIBRATIONS)
    return CALIBRATIONS[name]


def _target_positions(name: str, target: ImageSet, *, seed: int, limit: int) -> Tensor:
    """positions_B of the target's images that a policy sees."""
    policy = CALIBRATIONS[name]
    assert policy.target is not None
    length = whole_batches(min(limit, len(target)), policy.batch)
    positions_B = calibration_positions(target, policy.target, seed=seed, limit=length, key=TARGET_DRAW)
    if independent(positions_B) < policy.least:
        raise InputError(
            f"the calibration {name} needs {policy.least} independent images of the target",
            got=f"{len(positions_B)} drawn, of {len(target)} with calibration_images {limit}, that are worth "
            f"{independent(positions_B)}",
            do="Raise calibration_images, add images, or use another calibration.",
        )
    return positions_B


def calibration_positions(
    images: ImageSet, shares: Sampling, *, seed: int, limit: int, key: int = SOURCE_DRAW
) -> Tensor:
    """positions_B, at most `limit`, of the images to calibrate on, in these class shares.

    Balanced ones show every class equally often; a class of fewer images than its share repeats them.

    Args:
        key: draws of different keys are independent.
    """
    shares_K = class_shares(images.class_counts_K, shares)
    return draw(images.labels_N, shares_K, min(limit, len(images)), generator_for(seed, key))


def whole_batches(images: int, batch: int | None) -> int:
    """How many of so many images make batches of one size; fewer than a batch are one. None: all of them."""
    return images if batch is None or images < batch else images - images % batch


def source_images(source: ImageSet, *, seed: int, device: torch.device, limit: int) -> Tensor:
    """The images of the source that policies calibrate on, classes balanced: uint8 [B, C, S, S], B at most `limit`."""
    positions_B = calibration_positions(source, "balanced", seed=seed, limit=limit)
    return source.store.read(source.indices_N[positions_B], device)


def independent(positions_B: Tensor) -> int:
    """How many distinct images, each shown equally often, would give a mean as exactly as these (Kish 1965)."""
    copies_N = torch.unique(positions_B, return_counts=True)[1]
    return int(len(positions_B) ** 2 // int(copies_N.square().sum()))


def inherited_statistics(supernet: Supernet, images_BCHW: Tensor) -> Statistics:
    """Of every layer in the largest subnet.

    Where one of its norms needs none, another may: that layer's are those of the largest subnet with the next norm.
    """
    norms = [layer for layer in supernet.modules() if isinstance(layer, ElasticNorm)]
    wanted = {layer.key for layer in norms if layer.needs_calibration}
    space, largest = supernet.space, supernet.space.largest()
    found: dict[str, Moments] = {}
    for place in range(max(len(stage.norms) for stage in space.stages)):
        chosen = tuple(stage.norms[min(place, len(stage.norms) - 1)] for stage in space.stages)
        found = {**calibrate(supernet, replace(largest, norms=chosen), images_BCHW), **found}
        if wanted <= found.keys():
            break
    return found


def images_that_pass(policies: Iterable[str], limit: int) -> int:
    """Most images that pass through a subnet under any of these policies, where each side has at most `limit`."""
    return limit * max((CALIBRATIONS[name].source != 0) + (CALIBRATIONS[name].target is not None) for name in policies)
