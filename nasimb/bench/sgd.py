"""The method that a candidate's score replaces: SGD on a reweighted linear head through the frozen network.

Every epoch forwards every image, as such loops do (and must, where images are augmented). The forward pass has the
number format of the scoring and takes as many images at a time as is fastest, however many a step of SGD takes: nothing
would be shown by a slow one. Without augmentation the features of all epochs are the same, so where only its accuracy
is asked for they are computed once.

Shapes: N images, B images of a batch, M test images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasimb.bench.base import Conditions, Figure, made_with, ratio_figure
from nasimb.bench.candidate import best_batch_size, number_format, proposal, score, whole
from nasimb.bench.correlation import NO_ORDER, kendall_tau
from nasimb.bench.provenance import identity
from nasimb.bench.rows import Rows
from nasimb.bench.testbed import Testbed, features_for_truth, load_testbed, true_accuracy, warn_untrained
from nasimb.data.base import ImageSet
from nasimb.data.splits import stratified_split
from nasimb.losses.weights import inverse_frequency_weights
from nasimb.metrics import measure
from nasimb.search.candidate import statistics_of
from nasimb.search.trial import Candidate
from nasimb.supernet.sampling import generator_for

EPOCHS, BATCH_SIZE = 10, 128
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
HOLDOUT = 0.2
SUBNETS, QUICK_SUBNETS = 40, 4
FILE = "candidate_tau_rows.csv"

Epoch = Callable[[Tensor], Iterator[tuple[Tensor, Tensor]]]
"""An order of positions -> (features_BD, positions_B) of every batch."""


def score_over_sgd(conditions: Conditions) -> Iterator[Figure]:
    """score_over_sgd: how many times a candidate's full score fits in ten epochs of SGD on the median subnet."""
    testbed = load_testbed(conditions)
    candidate = Candidate(testbed.named_subnets["median"], testbed.calibration)
    scoring, asked = whole(testbed.scoring), proposal(testbed, candidate)
    at_a_time = fastest_forward(testbed, candidate, conditions)
    seconds = conditions.compare(
        "score_over_sgd",
        {
            "score": lambda: score(scoring, [asked], conditions),
            "sgd": lambda: sgd_through_network(testbed, candidate, at_a_time),
        },
    )
    yield ratio_figure(
        "score_over_sgd", seconds, "sgd", "score", at_least=7.0,
        against=f"{EPOCHS} epochs of SGD on a reweighted head through the frozen network / full score of the candidate",
        detail={
            "subnet": str(candidate.subnet), "target_images": len(scoring.fitted), "sgd_batch_size": BATCH_SIZE,
            "forward_batch_size": at_a_time, "dtype": str(scoring.dtype),
        },
    )  # fmt: skip


def tau_over_sgd(conditions: Conditions) -> Iterator[Figure]:
    """tau_score, tau_sgd: each one's Kendall tau with the test balanced accuracy of the full head, over 40 subnets."""
    testbed = load_testbed(conditions, content=True)
    warn_untrained(testbed, conditions)
    subnets = testbed.random_subnets(QUICK_SUBNETS if conditions.quick else SUBNETS)
    file = None if conditions.folder is None else conditions.folder / FILE
    rows = Rows(file, ("number",), identity([testbed], conditions))
    for number, subnet in enumerate(subnets):
        if rows.has(number=number):
            continue
        conditions.tick("tau_over_sgd", number / len(subnets), str(subnet))
        candidate = Candidate(subnet, testbed.calibration)
        features_ND, test_MD = features_for_truth(testbed, candidate)
        (trial,) = score(whole(testbed.scoring), [proposal(testbed, candidate)], conditions)
        rows.append(
            {
                "number": number, "subnet": str(subnet), "macs": trial.macs, "score": trial.score,
                "sgd": sgd_holdout(testbed, features_ND),
                "test": true_accuracy(testbed, features_ND, test_MD),
            }
        )  # fmt: skip
    yield from made_with(tau_figures(rows), data=testbed.data)


def tau_figures(rows: Rows) -> list[Figure]:
    """Both taus, and how much larger that of the score is."""
    test = rows.numbers("test")
    taus = {name: kendall_tau(rows.numbers(name), test) for name in ("score", "sgd")}
    against = f"and test balanced accuracy of the full balanced-softmax head, {len(test)} subnets"
    said = {"score": "candidate score", "sgd": f"{EPOCHS} epochs of SGD judged on a {HOLDOUT:.0%} hold-out"}
    figures = [
        Figure(f"tau_{name}", tau, f"Kendall tau of {said[name]} {against}", unit="tau", repetitions=len(test),
               reason=NO_ORDER if tau is None else None)
        for name, tau in taus.items()
    ]  # fmt: skip
    gained = None if taus["score"] is None or taus["sgd"] is None else taus["score"] - taus["sgd"]
    return [
        *figures,
        Figure("tau_score_minus_sgd", gained, "tau_score - tau_sgd", unit="tau", at_least=0.0, repetitions=len(test),
               reason="One of both taus has no value." if gained is None else None),
    ]  # fmt: skip


def fastest_forward(testbed: Testbed, candidate: Candidate, conditions: Conditions) -> int:
    """Images at a time with which the candidate's forward pass is fastest."""
    statistics = statistics_of(testbed.scoring, candidate)
    return best_batch_size(testbed, testbed.scoring.supernet.extract(candidate.subnet, statistics).eval(), conditions)


def sgd_through_network(testbed: Testbed, candidate: Candidate, at_a_time: int) -> nn.Module:
    """Calibrate, then train the head on all target images, forwarding them `at_a_time` in every epoch."""
    scoring, images = testbed.scoring, testbed.scoring.fitted
    backbone = scoring.supernet.extract(candidate.subnet, statistics_of(scoring, candidate)).eval()

    def epoch(order_N: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(regrouped(features(order_N)), torch.split(order_N, BATCH_SIZE), strict=True)

    def features(order_N: Tensor) -> Iterator[Tensor]:
        for images_BCHW, _ in images.batches(at_a_time, scoring.device, order_N):
            with torch.no_grad(), number_format(scoring):
                features_BD = backbone(images_BCHW)
            yield features_BD.float()

    dimension = scoring.supernet.feature_dim(candidate.subnet)
    return train_head(epoch, images.labels_N, images.num_classes, dimension, scoring.device, testbed.seed)


def regrouped(batches: Iterable[Tensor], size: int = BATCH_SIZE) -> Iterator[Tensor]:
    """The same rows in the same order, `size` at a time; in the end what is left."""
    waiting: list[Tensor] = []
    for features_BD in batches:
        waiting.append(features_BD)
        if sum(map(len, waiting)) >= size:
            *whole, rest = torch.split(torch.cat(waiting), size)
            yield from whole if len(rest) < size else (*whole, rest)
            waiting = [rest] if len(rest) < size else []
    if waiting:
        yield torch.cat(waiting)


def sgd_holdout(testbed: Testbed, features_ND: Tensor) -> float:
    """Balanced accuracy on a stratified hold-out of the head that the other images train."""
    images = testbed.task.target
    kept, held = stratified_split(images.labels_N, HOLDOUT, testbed.seed)
    head = train_head(
        _cached(features_ND, kept), images.labels_N[kept], images.num_classes, features_ND.shape[1],
        features_ND.device, testbed.seed,
    )  # fmt: skip
    with torch.no_grad():
        predicted_M = head(features_ND[held.to(features_ND.device)]).argmax(1).cpu()
    return balanced_accuracy(predicted_M, images, held)


def train_head(
    epoch: Epoch, labels_N: Tensor, num_classes: int, dimension: int, device: torch.device, seed: int
) -> nn.Module:
    """A linear layer behind an affine-free batch norm (so that the features' scale does not matter), from zero.

    Cross entropy weighted by inverse class frequency, SGD with momentum, cosine schedule.
    """
    counts_K = torch.bincount(labels_N, minlength=num_classes).double()
    weights_K = inverse_frequency_weights(counts_K.clamp(min=1)).float().to(device)
    # Filled in here: its own start would draw from torch's global generator.
    linear = nn.Linear(dimension, num_classes, device="meta").to_empty(device=device)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    head = nn.Sequential(nn.BatchNorm1d(dimension, affine=False), linear).to(device)
    optimiser = torch.optim.SGD(linear.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    labels_N = labels_N.to(device)
    for number in range(EPOCHS):
        order_N = torch.randperm(len(labels_N), generator=generator_for(seed, 7, number))
        for features_BD, positions_B in epoch(order_N):
            if len(positions_B) == 1:
                continue  # batch norm cannot train on one image
            labels_B = labels_N[positions_B.to(device)]
            losses_B = F.cross_entropy(head(features_BD), labels_B, reduction="none")
            torch.autograd.backward((weights_K[labels_B] * losses_B).mean())
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        schedule.step()
    return head.eval()


def balanced_accuracy(predicted_M: Tensor, images: ImageSet, positions_M: Tensor) -> float:
    """Of predictions for these images of a set."""
    labels_M = images.labels_N[positions_M].numpy()
    return measure(predicted_M.numpy(), labels_M, images.class_counts_K.numpy()).balanced_accuracy


def _cached(features_ND: Tensor, kept: Tensor) -> Epoch:
    kept_ND = features_ND[kept.to(features_ND.device)]

    def epoch(order_N: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for positions_B in torch.split(order_N, BATCH_SIZE):
            yield kept_ND[positions_B.to(kept_ND.device)], positions_B

    return epoch
