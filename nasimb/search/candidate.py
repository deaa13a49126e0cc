"""From candidates to their scores, with everything frozen.

subnet -> calibrated BN statistics -> features of the target images -> closed-form heads -> held-out predictions ->
metrics. A batch of candidates shares what they begin with (`SubnetTree`), and is screened on part of the images first
where that pays. Nothing here has a state: the same arguments give the same score, in whatever company candidates come.

Shapes: B images of a batch, N fitted images, M held-out images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nasimb.budget import Clock
from nasimb.cost.macs import macs_and_params
from nasimb.data.base import ImageSet
from nasimb.errors import MemoryLimitError, NotFiniteError
from nasimb.heads import ClosedFormSpec, LeaveOneOut, MomentSpec, leave_one_out, leave_one_out_stream
from nasimb.heads.folds import predict_held_out
from nasimb.heads.moments import Chunks
from nasimb.metrics import Metrics, measure, objective_value
from nasimb.nn.moments import Statistics
from nasimb.search.screening import Screen
from nasimb.search.trial import Candidate
from nasimb.space import Subnet
from nasimb.supernet.base import Supernet
from nasimb.supernet.calibrate import Calibration, calibrate
from nasimb.supernet.tree import SubnetTree


@dataclass(frozen=True, eq=False)
class Scoring:
    """Everything that a score depends on besides the candidate.

    Attributes:
        supernet: frozen.
        fitted: the imbalanced images that heads are fitted on; every one is used.
        validation: hold-out that ranks where the backbone has seen `fitted`; None: exact leave-one-out.
        class_counts_K: images per class of the whole target, which decide many, medium and few.
        calibrations: what every calibration policy calibrates with, by its name.
        heads: closed-form heads; the best of all their settings counts.
        objective: what the score is, a name in `nasimb.metrics.OBJECTIVES`.
        batch_size: images of one forward pass; fixed, so that scores do not depend on it: convolutions of other sizes
            may add in another order, and differ in their last bits. A row scored with fewer says so (`failure`).
        calibration_batch: images of one calibration pass; None: as many as are quick.
        screen: the part of the images that screens candidates; None: every candidate sees all of them.
        dtype: number format of the convolutions.
        memory_mib: most that maps of calibration images, and most that features of a batch of candidates, may take.
    """

    supernet: Supernet
    fitted: ImageSet
    validation: ImageSet | None
    class_counts_K: Tensor
    calibrations: Mapping[str, Calibration]
    heads: tuple[ClosedFormSpec, ...]
    objective: str
    batch_size: int
    device: torch.device
    calibration_batch: int | None = None
    screen: Screen | None = None
    dtype: torch.dtype = torch.float32
    memory_mib: float = 4096

    @property
    def judged_counts_K(self) -> Tensor:
        """`class_counts_K`, but 0 for classes of which no image can be held out: they have no part in any score."""
        held_out, at_least = (self.fitted, 2) if self.validation is None else (self.validation, 1)
        return torch.where(held_out.class_counts_K >= at_least, self.class_counts_K, 0)

    def now(self, clock: Clock) -> float:
        """Seconds on the clock, when the device has done what it was given: that belongs to who gave it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return clock()

    def cost_of(self, subnet: Subnet) -> tuple[int, int]:
        """Exact MACs and parameters of the subnet with a linear head for the target's classes."""
        macs, params = macs_and_params(self.supernet.space, subnet, self.supernet.in_channels)
        inputs, outputs = self.supernet.feature_dim(subnet), self.fitted.num_classes
        return macs + inputs * outputs, params + (inputs + 1) * outputs


@dataclass(frozen=True, slots=True)
class Ranking:
    """How the best closed-form head of one candidate did on images it was not fitted to."""

    metrics: Metrics
    value: float
    balanced_loss: float
    head: str
    setting: float
    tau: float = 0.0


@dataclass(frozen=True, eq=False)
class Features:
    """Of one candidate: features_ND of the fitted images, and of the hold-out if there is one."""

    fitted_ND: Tensor
    held_out_MD: Tensor | None

    @property
    def nbytes(self) -> int:
        """Memory they take."""
        return self.fitted_ND.nbytes + (0 if self.held_out_MD is None else self.held_out_MD.nbytes)


def statistics_of(scoring: Scoring, candidate: Candidate) -> Statistics:
    """BN statistics of the candidate under its calibration policy."""
    return calibrate(scoring.supernet, candidate.subnet, scoring.calibrations[candidate.calibration])


def features_of(scoring: Scoring, candidate: Candidate, statistics: Statistics, images: ImageSet) -> Tensor:
    """features_ND of `images`, float32 on the device, through the frozen super-network.

    Raises:
        NotFiniteError: one of them is not finite.
    """
    tree = SubnetTree.alone(scoring.supernet, candidate.subnet, statistics, dtype=scoring.dtype)
    features_ND = sweep(scoring, tree, images, [0])[0]
    check_finite(features_ND, candidate)
    return features_ND


def sweep(
    scoring: Scoring,
    tree: SubnetTree,
    images: ImageSet,
    members: Sequence[int],
    *,
    between: Callable[[], None] = lambda: None,
) -> dict[int, Tensor]:
    """features_ND of all `images`, float32 on the device, of these members of the tree, in one pass over the images."""
    found: dict[int, Tensor] = {}
    start = 0
    for images_BCHW, _ in images.batches(scoring.batch_size, scoring.device):
        between()
        end = start + len(images_BCHW)
        for member, features_BD in tree.features(images_BCHW, members).items():
            if member not in found:
                found[member] = features_BD.new_empty(len(images), features_BD.shape[1])
            found[member][start:end] = features_BD
        start = end
    return found


def check_finite(features_ND: Tensor, candidate: Candidate) -> None:
    """Raise NotFiniteError if a feature is not finite."""
    if torch.isfinite(features_ND).all():
        return
    wrong = int((~torch.isfinite(features_ND)).any(1).sum())
    raise NotFiniteError(
        "features must be finite",
        got=f"NaN or infinity for {wrong} of {len(features_ND)} images in {candidate}",
        do="Lower training.learning_rate.",
    )


def rank(scoring: Scoring, candidate: Candidate) -> Ranking:
    """The candidate's best held-out result over every closed-form head and setting, on all images.

    Raises:
        NotFiniteError: its features are not finite.
    """
    statistics = statistics_of(scoring, candidate)
    features_ND = features_of(scoring, candidate, statistics, scoring.fitted)
    held_out_MD = None
    if scoring.validation is not None:
        held_out_MD = features_of(scoring, candidate, statistics, scoring.validation)
    return judge(scoring, Features(features_ND, held_out_MD))


def judge(scoring: Scoring, features: Features) -> Ranking:
    """The best held-out result over every closed-form head and setting, from features of all images.

    Ties go to the later head, and within a head to the smaller held-out loss. Losses of different heads do not
    compare, so the loss reported, which breaks ties between candidates, is always that of the last head.
    """
    if features.held_out_MD is None:
        found = list(_leave_one_out(scoring, features.fitted_ND, scoring.fitted.labels_N, None))
    else:
        assert scoring.validation is not None
        labels = scoring.fitted.labels_N, scoring.validation.labels_N
        found = list(_hold_out(scoring, features.fitted_ND, features.held_out_MD, *labels))
    return _best(scoring, found)


def judge_part(scoring: Scoring, screen: Screen, features: Features) -> Ranking:
    """`judge` from features of the screening part alone, for the objective of the whole."""
    labels_N = scoring.fitted.labels_N[screen.fitted_M]
    if features.held_out_MD is None:
        found = list(_leave_one_out(scoring, features.fitted_ND, labels_N, scoring.fitted.class_counts_K))
    else:
        assert scoring.validation is not None
        held_out_M = scoring.validation.labels_N[screen.validation_M]
        images_K = scoring.fitted.class_counts_K
        found = list(_hold_out(scoring, features.fitted_ND, features.held_out_MD, labels_N, held_out_M, images_K))
    return _best(scoring, found)


def judge_stream(scoring: Scoring, chunks: Chunks) -> Ranking:
    """`judge` where the features of all fitted images do not fit in memory together.

    Raises:
        MemoryLimitError: a head or a hold-out needs them to.
    """
    heads = [head for head in scoring.heads if isinstance(head, MomentSpec)]
    if scoring.validation is not None or len(heads) < len(scoring.heads):
        raise MemoryLimitError(
            "features of all images must fit in memory, unless leave-one-out of ridge or gda ranks",
            got=f"more than {scoring.memory_mib:g} MiB of them",
            do="Raise memory_mib, or rank by these heads alone.",
        )
    results = leave_one_out_stream(heads, chunks, scoring.fitted.class_counts_K.to(scoring.device))
    return _best(scoring, [_of_result(scoring, result, scoring.fitted.labels_N) for result in results])


def _best(scoring: Scoring, found: Sequence[Ranking]) -> Ranking:
    names = [head.name for head in scoring.heads]
    best = max(found, key=lambda ranking: (ranking.value, names.index(ranking.head), -ranking.balanced_loss))
    return replace(best, balanced_loss=min(r.balanced_loss for r in found if r.head == names[-1]))


def _leave_one_out(
    scoring: Scoring, features_ND: Tensor, labels_N: Tensor, images_K: Tensor | None
) -> Iterator[Ranking]:
    on_device_N = labels_N.to(features_ND.device)
    num_classes = scoring.fitted.num_classes
    for result in leave_one_out(scoring.heads, features_ND, on_device_N, num_classes, images_K=images_K):
        yield _of_result(scoring, result, labels_N)


def _of_result(scoring: Scoring, result: LeaveOneOut, labels_N: Tensor) -> Ranking:
    setting, loss = float(result.setting), float(result.balanced_loss)
    return _ranking(scoring, result.predicted_N, labels_N, result.name, setting, loss, result.tau)


def _hold_out(
    scoring: Scoring, features_ND: Tensor, held_out_MD: Tensor, labels_N: Tensor, held_out_labels_M: Tensor,
    images_K: Tensor | None = None,
) -> Iterator[Ranking]:  # fmt: skip
    labels_N, num_classes = labels_N.to(features_ND.device), scoring.fitted.num_classes
    for spec in scoring.heads:
        for setting, head in spec.fit_grid(features_ND, labels_N, num_classes, images_K=images_K):
            predicted_M, loss = predict_held_out(head, held_out_MD, held_out_labels_M)
            yield _ranking(scoring, predicted_M, held_out_labels_M, spec.name, float(setting), loss, head.tau)


def _ranking(
    scoring: Scoring, predicted_N: Tensor, labels_N: Tensor, head: str, setting: float, loss: float, tau: float
) -> Ranking:
    metrics = measure(_numpy(predicted_N), _numpy(labels_N), _numpy(scoring.class_counts_K))
    return Ranking(metrics, objective_value(metrics, scoring.objective), loss, head, setting, tau)


def _numpy(values_N: Tensor) -> np.ndarray:
    return values_N.cpu().numpy()
