"""What candidates are benchmarked on: images, a frozen super-network, and how a search would score with them.

Shapes: N images, M test images, K classes, C channels, S pixels a side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasimb.assemble import Ground, load_ground, make_scoring
from nasimb.bench.base import Conditions
from nasimb.config import RunConfig
from nasimb.data import parse_dataset
from nasimb.data.base import ImageSet
from nasimb.data.longtail import class_counts
from nasimb.data.splits import stratified_split
from nasimb.data.store import TensorStore
from nasimb.data.task import Task
from nasimb.errors import InputError
from nasimb.heads.compare import by_folds, fit_head
from nasimb.metrics import measure
from nasimb.phases.supernet import Frozen
from nasimb.search.candidate import Scoring, features_of, statistics_of
from nasimb.search.trial import Candidate
from nasimb.space import SearchSpace, Subnet
from nasimb.supernet import build_supernet
from nasimb.supernet.calibrate import source_images
from nasimb.supernet.pixels import pixel_mean_and_std
from nasimb.supernet.sampling import generator_for

SYNTHETIC_CLASSES, SYNTHETIC_IMAGES, QUICK_IMAGES = 10, 10_000, 240
SYNTHETIC_IMBALANCE = 100.0
QUICK_CALIBRATION = 64
DRAWS_FOR_MEDIAN = 501
DRAWN_OUT = 0.2
FULL_HEAD = "balanced_softmax"
FULL_PENALTIES, FULL_FOLDS = (1e-2, 1e-3, 1e-4), 3


@dataclass(frozen=True, eq=False)
class Testbed:
    """Images, a frozen super-network and the scoring of a search.

    Attributes:
        trained: whether the super-network is; with fresh random weights times are right and scores mean nothing.
        data: kind of images, for a reader.
    """

    __test__ = False  # not a test case, whatever its name begins with

    task: Task
    space: SearchSpace
    scoring: Scoring
    seed: int
    trained: bool
    data: str

    @property
    def calibration(self) -> str:
        """The policy of every candidate made here."""
        return next(iter(self.scoring.calibrations))

    @property
    def calibration_BCHW(self) -> Tensor:
        """The images of that policy."""
        return self.scoring.calibrations[self.calibration].images()

    @cached_property
    def named_subnets(self) -> dict[str, Subnet]:
        """Smallest, median (by MACs, of a fixed random sample) and largest."""
        rng = np.random.default_rng(0)
        drawn = [self.space.sample(rng) for _ in range(DRAWS_FOR_MEDIAN)]
        drawn.sort(key=lambda subnet: self.scoring.cost_of(subnet)[0])
        return {"smallest": self.space.smallest(), "median": drawn[len(drawn) // 2], "largest": self.space.largest()}

    def fingerprint(self) -> str:
        """16 hex digits that identify images, network, calibration and seed: what scores depend on."""
        digest = hashlib.sha256(repr((self.task.fingerprints(), self.space, self.seed)).encode())
        images = [calibration.images() for calibration in self.scoring.calibrations.values()]
        for tensor in (*self.scoring.supernet.state_dict().values(), *images):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def scoring_options(self) -> str:
        """How candidates are scored, in full but short: heads, metric, screening, batches, number format."""
        scoring, screen = self.scoring, self.scoring.screen
        heads = [head.model_dump(mode="json") | {"name": head.name} for head in scoring.heads]
        validation = None if scoring.validation is None else scoring.validation.fingerprint()
        part = None if screen is None else (screen.eta, screen.fitted_M.tolist(), _listed(screen.validation_M))
        options = (heads, scoring.class_counts_K.tolist(), validation, part, scoring.batch_size, scoring.memory_mib)
        names = "+".join(head.name for head in scoring.heads)
        screened = "whole" if screen is None else f"1/{screen.eta} of {len(screen.fitted_M)} images"
        digest = hashlib.sha256(repr(options).encode()).hexdigest()[:8]
        return f"{names} {scoring.objective} {scoring.dtype} {screened} {digest}"

    def random_subnets(self, count: int) -> list[Subnet]:
        """Uniform draws, always the same ones, each once."""
        rng = np.random.default_rng(5)
        found: dict[Subnet, None] = {}
        for _ in range(50 * count):
            found.setdefault(self.space.sample(rng))
            if len(found) == count:
                break
        return list(found)


def load_testbed(
    conditions: Conditions, *, draw: int | None = None, calibrations: Sequence[str] | None = None, content: bool = False
) -> Testbed:
    """The testbed that the options name.

    Args:
        content: whether scores matter, not only times: then digits stand in for random pixels.
        draw: which draw of the target: the seed of its long tail, or of the 80 % that are kept of a target that is
            taken as it is. None: the configuration's seed, and all images.
        calibrations: policies; None: the configuration's.

    Raises:
        InputError: the images, the space or the super-network are not fit for each other.
    """
    config = conditions.config
    changes: dict[str, Any] = {"calibrations": tuple(calibrations or config.calibrations)}
    if draw is not None:
        changes["seed"] = draw
    if conditions.quick:
        changes["calibration_images"] = QUICK_CALIBRATION
    config = config.model_copy(update=changes)
    conditions = replace(conditions, synthetic=conditions.synthetic and not content)
    ground = load_bench_ground(conditions, config)
    data = "synthetic" if conditions.synthetic else parse_dataset(config.data).name
    task = _honest(ground.task)
    if draw is not None and config.imbalance_factor is None and not conditions.synthetic:
        task = _only(task, stratified_split(task.target.labels_N, DRAWN_OUT, draw)[0], f"Draw {draw} of 80 %")
    task = limited(task, conditions.images or (QUICK_IMAGES if conditions.quick else None))
    ground = replace(ground, task=task)
    frozen = ground.ready or _fresh(ground, config.seed, config.calibration_images)
    trained = ground.ready is not None
    return Testbed(task, ground.space, make_scoring(config, ground, frozen), config.seed, trained, data)


def load_bench_ground(conditions: Conditions, config: RunConfig) -> Ground:
    """Images and space as the options name them, or random pixels where no data are named.

    Raises:
        InputError: the images, the space or the super-network are not fit for each other.
    """
    if not conditions.synthetic:
        return load_ground(config, conditions.device)
    space = SearchSpace.load(conditions.space)
    return Ground(synthetic_task(space, conditions, config.seed), space, conditions.device, None)


def warn_untrained(testbed: Testbed, conditions: Conditions) -> None:
    """Say that scores mean nothing where the super-network has fresh weights."""
    if not testbed.trained:
        conditions.watcher.say("The super-network has fresh random weights: times are right, scores mean nothing.")


def synthetic_task(space: SearchSpace, conditions: Conditions, seed: int) -> Task:
    """Random pixels, a little brighter from class to class, in an exponential long tail; as many test images a class.

    Where N is too small for the imbalance factor 100, the smallest class keeps two images.
    """
    total = conditions.images or (QUICK_IMAGES if conditions.quick else SYNTHETIC_IMAGES)
    if total < 4 * SYNTHETIC_CLASSES:
        raise InputError("--images must leave every class some", got=total, do=f"Give {4 * SYNTHETIC_CLASSES} or more.")
    counts_K = _counts(total)
    classes = tuple(map(str, range(SYNTHETIC_CLASSES)))
    rng = np.random.default_rng([seed, 6])

    def images(counts: Sequence[int]) -> ImageSet:
        labels_N = rng.permutation(np.repeat(np.arange(SYNTHETIC_CLASSES), counts))
        shape = (len(labels_N), 3, space.max_resolution, space.max_resolution)
        pixels = rng.integers(0, 200, shape, dtype=np.uint8) + (4 * labels_N[:, None, None, None]).astype(np.uint8)
        store = TensorStore(torch.from_numpy(pixels).to(conditions.device), [("synthetic", len(labels_N))])
        return ImageSet(store, torch.arange(len(labels_N)), torch.from_numpy(labels_N), classes)

    target, source, test = images(counts_K), images([100] * SYNTHETIC_CLASSES), images([20] * SYNTHETIC_CLASSES)
    return Task(source, False, target, test, None, True, ("Synthetic pixels.",))


def _listed(positions_M: Tensor | None) -> list[int] | None:
    return None if positions_M is None else positions_M.tolist()


def _counts(total: int) -> list[int]:
    """Long-tailed counts that sum to `total`: what rounding leaves goes to the largest class."""
    factor = min(SYNTHETIC_IMBALANCE, total / 20)
    shares_K = np.array(class_counts(1_000_000, SYNTHETIC_CLASSES, factor), dtype=float)
    counts_K = np.maximum(2, np.floor(total * shares_K / shares_K.sum())).astype(int)
    counts_K[0] += total - counts_K.sum()
    return [int(count) for count in counts_K]


def _honest(task: Task) -> Task:
    """The task with leave-one-out as its validation: fresh weights have seen no image, a ready network was checked."""
    if not task.source_is_target:
        return task
    return replace(task, source=task.target, source_is_target=False, validation=None)


def limited(task: Task, limit: int | None) -> Task:
    """At most so many target images (None: all); of every class the same share, and at least two where it has them."""
    if limit is None or limit >= len(task.target):
        return task
    labels_N = task.target.labels_N.numpy()
    share = limit / len(labels_N)
    kept = []
    for k, count in enumerate(np.bincount(labels_N, minlength=task.target.num_classes)):
        members = np.random.default_rng([0, k]).permutation(np.flatnonzero(labels_N == k))
        kept.append(members[: max(min(2, count), round(count * share))])
    return _only(task, torch.from_numpy(np.sort(np.concatenate(kept))), "As --images asks")


def _only(task: Task, positions: Tensor, why: str) -> Task:
    target = task.target.subset(positions)
    source = target if task.source is task.target else task.source
    note = f"{why}: {len(target)} of {len(task.target)} target images are used."
    return replace(task, target=target, source=source, notes=(*task.notes, note))


def _fresh(ground: Ground, seed: int, limit: int) -> Frozen:
    """A super-network with random weights; its calibration images are those of the source."""
    source = ground.task.source
    mean_C, std_C = pixel_mean_and_std(source)
    supernet = build_supernet(ground.space, source.channels, source.num_classes, mean_C, std_C, generator_for(seed, 0))
    supernet.to(ground.device).eval().requires_grad_(False)
    images_BCHW = source_images(source, seed=seed, device=torch.device("cpu"), limit=limit)
    return Frozen(supernet, images_BCHW, frozenset(), {"source_fingerprint": ""})


def true_accuracy(testbed: Testbed, features_ND: Tensor, test_MD: Tensor) -> float:
    """Balanced accuracy on the test split of the full head, its penalty chosen by folds of the target."""
    target, scoring = testbed.task.target, testbed.scoring
    labels_N = target.labels_N.to(features_ND.device)
    found = by_folds(
        FULL_HEAD, features_ND, labels_N, target.num_classes, penalties=FULL_PENALTIES, folds=FULL_FOLDS,
        seed=testbed.seed,
    )  # fmt: skip
    best = max(found, key=lambda one: (_balanced(one.predicted_M, target, scoring), -one.balanced_loss))
    head = fit_head(FULL_HEAD, features_ND, labels_N, target.num_classes, best.setting, FULL_PENALTIES)
    return _balanced(head.logits(test_MD).argmax(1).cpu(), testbed.task.test, scoring)


def features_for_truth(testbed: Testbed, candidate: Candidate) -> tuple[Tensor, Tensor]:
    """features_ND of the target and of the test split through the frozen candidate."""
    statistics = statistics_of(testbed.scoring, candidate)
    target, test = testbed.task.target, testbed.task.test
    return (
        features_of(testbed.scoring, candidate, statistics, target),
        features_of(testbed.scoring, candidate, statistics, test),
    )


def _balanced(predicted_N: Tensor, images: ImageSet, scoring: Scoring) -> float:
    found = measure(predicted_N.numpy(), images.labels_N.numpy(), scoring.class_counts_K.numpy())
    return found.balanced_accuracy
