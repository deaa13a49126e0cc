"""From a candidate to its score, with everything frozen.

subnet -> calibrated BN statistics -> features of the target images -> closed-form heads -> held-out predictions ->
metrics. Nothing here has a state: the same arguments give the same score, in whatever order candidates come.

Shapes: B images of a batch, N fitted images, M held-out images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from nasimb.cost.macs import macs_and_params
from nasimb.data.base import ImageSet
from nasimb.errors import WorkError
from nasimb.heads import ClosedFormSpec
from nasimb.heads.folds import balanced_log_loss
from nasimb.metrics import Metrics, measure, objective_value
from nasimb.nn.moments import Statistics, given
from nasimb.search.trial import FAILED, FINISHED, Candidate, Trial
from nasimb.space import Subnet
from nasimb.supernet.base import Supernet
from nasimb.supernet.calibrate import calibrate

FAILURES = (WorkError, MemoryError, torch.cuda.OutOfMemoryError, LinAlgError)
"""What one candidate or one head may fail with while the run goes on."""


@dataclass(frozen=True, eq=False)
class Scoring:
    """Everything that a score depends on besides the candidate.

    Attributes:
        supernet: frozen.
        fitted: the imbalanced images that heads are fitted on; every one is used.
        validation: hold-out that ranks where the backbone has seen `fitted`; None: exact leave-one-out.
        class_counts_K: images per class of the whole target, which decide many, medium and few.
        calibration_images: uint8 images_BCHW of every calibration policy, on the device.
        heads: closed-form heads; the best of all their settings counts.
        objective: what the score is, a name in `nasimb.metrics.OBJECTIVES`.
        batch_size: images of one forward pass; fixed, so that scores do not depend on it.
    """

    supernet: Supernet
    fitted: ImageSet
    validation: ImageSet | None
    class_counts_K: Tensor
    calibration_images: Mapping[str, Tensor]
    heads: tuple[ClosedFormSpec, ...]
    objective: str
    batch_size: int
    device: torch.device

    @property
    def judged_counts_K(self) -> Tensor:
        """`class_counts_K`, but 0 for classes of which no image can be held out: they have no part in any score."""
        held_out, at_least = (self.fitted, 2) if self.validation is None else (self.validation, 1)
        return torch.where(held_out.class_counts_K >= at_least, self.class_counts_K, 0)

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


def statistics_of(scoring: Scoring, candidate: Candidate) -> Statistics:
    """BN statistics of the candidate under its calibration policy."""
    return calibrate(scoring.supernet, candidate.subnet, scoring.calibration_images[candidate.calibration])


@torch.no_grad()
def features_of(scoring: Scoring, candidate: Candidate, statistics: Statistics, images: ImageSet) -> Tensor:
    """features_ND of `images`, float32 on the device, through the frozen super-network.

    Raises:
        WorkError: one of them is not finite.
    """
    dimension = scoring.supernet.feature_dim(candidate.subnet)
    features_ND = torch.empty(len(images), dimension, device=scoring.device)
    moments_for = given(statistics)
    for images_BCHW, positions_B in images.batches(scoring.batch_size, scoring.device):
        features_ND[positions_B] = scoring.supernet.features(images_BCHW, candidate.subnet, moments_for)
    wrong = int((~torch.isfinite(features_ND)).any(1).sum())
    if wrong:
        raise WorkError(
            "features must be finite",
            got=f"NaN or infinity for {wrong} of {len(images)} images in {candidate}",
            do="Lower training.learning_rate.",
        )
    return features_ND


def rank(scoring: Scoring, candidate: Candidate) -> Ranking:
    """The candidate's best held-out result over every closed-form head and setting.

    Ties go to the later head, and within a head to the smaller held-out loss. Losses of different heads do not
    compare, so the loss reported, which breaks ties between candidates, is always that of the last head.

    Raises:
        WorkError: its features are not finite.
    """
    statistics = statistics_of(scoring, candidate)
    features_ND = features_of(scoring, candidate, statistics, scoring.fitted)
    if scoring.validation is None:
        found = list(_leave_one_out(scoring, features_ND))
    else:
        held_out_MD = features_of(scoring, candidate, statistics, scoring.validation)
        found = list(_hold_out(scoring, features_ND, held_out_MD))
    names = [head.name for head in scoring.heads]
    best = max(found, key=lambda ranking: (ranking.value, names.index(ranking.head), -ranking.balanced_loss))
    return replace(best, balanced_loss=min(r.balanced_loss for r in found if r.head == names[-1]))


def evaluate(
    scoring: Scoring, number: int, kind: str, candidate: Candidate, macs: int, params: int, *, seed: int
) -> Trial:
    """The finished trial of a candidate; failed, with its reason, where its features are of no use."""
    device = str(scoring.device)
    try:
        ranking = rank(scoring, candidate)
    except FAILURES as error:
        return Trial(
            number=number, state=FAILED, kind=kind, candidate=candidate, macs=macs, params=params, device=device,
            seed=seed, reason=" ".join(str(error).split()),
        )  # fmt: skip
    metrics = ranking.metrics
    return Trial(
        number=number, state=FINISHED, kind=kind, candidate=candidate, macs=macs, params=params, device=device,
        seed=seed, score=ranking.value, balanced_accuracy=metrics.balanced_accuracy, many=metrics.many,
        medium=metrics.medium, few=metrics.few, worst_recall=metrics.worst_recall,
        balanced_loss=ranking.balanced_loss, head=ranking.head, setting=ranking.setting,
    )  # fmt: skip


def _leave_one_out(scoring: Scoring, features_ND: Tensor) -> Iterator[Ranking]:
    labels_N = scoring.fitted.labels_N
    for head in scoring.heads:
        for result in head.score(features_ND, labels_N.to(features_ND.device), scoring.fitted.num_classes):
            yield _ranking(
                scoring, result.predicted_N, labels_N, result.name, float(result.setting), float(result.balanced_loss)
            )


def _hold_out(scoring: Scoring, features_ND: Tensor, held_out_MD: Tensor) -> Iterator[Ranking]:
    assert scoring.validation is not None
    labels_N, labels_M = scoring.fitted.labels_N.to(features_ND.device), scoring.validation.labels_N
    for spec in scoring.heads:
        for setting in spec.grid:
            head = spec.fit(features_ND, labels_N, scoring.fitted.num_classes, setting)
            logits_MK = head.logits(held_out_MD).double().cpu()
            loss = balanced_log_loss(logits_MK, labels_M)
            yield _ranking(scoring, logits_MK.argmax(1), labels_M, spec.name, float(setting), loss)


def _ranking(
    scoring: Scoring, predicted_N: Tensor, labels_N: Tensor, head: str, setting: float, loss: float
) -> Ranking:
    metrics = measure(_numpy(predicted_N), _numpy(labels_N), _numpy(scoring.class_counts_K))
    return Ranking(metrics, objective_value(metrics, scoring.objective), loss, head, setting)


def _numpy(values_N: Tensor) -> np.ndarray:
    return values_N.cpu().numpy()
