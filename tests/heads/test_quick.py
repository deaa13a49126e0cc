"""The quick logistic head against the full one, and against itself without the images left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nasimb.errors import DataError, WorkError
from nasimb.heads.folds import stratified_folds
from nasimb.heads.logistic import LogisticSpec
from nasimb.heads.minimise import minimise, prepare
from nasimb.heads.quick import QuickLogisticSpec
from nasimb.heads.standardise import standardise
from nasimb.losses import parse_loss
from nasimb.metrics import NO_PREDICTION

COUNTS = (60, 25, 9, 4)


def blobs(counts: tuple[int, ...] = COUNTS, dimension: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    centres_KD = 1.2 * torch.randn(len(counts), dimension, generator=generator)
    order_N = torch.randperm(len(labels_N), generator=generator)
    noise_ND = torch.randn(len(labels_N), dimension, generator=generator)
    return (centres_KD[labels_N] + noise_ND + 1.0)[order_N], labels_N[order_N]


def centred(logits_NK: Tensor) -> Tensor:
    return logits_NK - logits_NK.mean(1, keepdim=True)


@pytest.mark.parametrize("penalty", [0.1, 1e-3])
def test_with_many_steps_it_is_the_full_head(penalty: float) -> None:
    features_ND, labels_N = blobs()
    head = QuickLogisticSpec(steps=100).fit(features_ND, labels_N, 4, penalty)
    full = LogisticSpec(tolerance=1e-12).fit(features_ND, labels_N, 4, penalty)
    difference_NK = centred(head.logits(features_ND)) - centred(full.logits(features_ND))
    assert difference_NK.abs().max() < 0.02 * centred(full.logits(features_ND)).abs().max()
    assert head.setting == penalty


def test_a_few_steps_come_close_to_the_minimum() -> None:
    features_ND, labels_N = blobs((300, 90, 30, 10, 5), dimension=20)
    problem = standardise(features_ND, labels_N, 5)
    loss = parse_loss("balanced_softmax").build(problem.counts_P)
    prepared = prepare(problem, cosine=False)
    for penalty in (1e-2, 1e-3):
        phases = parse_loss("balanced_softmax").phases(problem.counts_P)
        least = minimise(prepared, phases, penalty, max_iterations=2000, tolerance=1e-10).objective
        head = QuickLogisticSpec().fit(features_ND, labels_N, 5, penalty)
        squares = float(((head.weight_KD * head.std_D) ** 2).sum())
        value = float(loss(head.logits(features_ND), labels_N)) + penalty / 2 * squares
        assert least <= value <= 1.1 * least


def minimised_by_torch(x_MD: Tensor, y_M: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    weight_KD = torch.zeros(4, x_MD.shape[1], dtype=torch.float64, requires_grad=True)
    bias_K = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight_KD, bias_K], max_iter=200, line_search_fn="strong_wolfe")
    log_counts_K = torch.bincount(y_M).double().log()

    def closure() -> Tensor:
        optimiser.zero_grad()
        entropy = torch.nn.functional.cross_entropy(x_MD @ weight_KD.T + bias_K + log_counts_K, y_M)
        value = entropy + penalty / 2 * weight_KD.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weight_KD.detach(), bias_K.detach()


@pytest.mark.parametrize("penalty", [0.1, 0.01])
def test_an_image_has_no_say_in_its_own_prediction(penalty: float) -> None:
    features_ND, labels_N = blobs()
    spec = QuickLogisticSpec(folds=3, steps=60, grid=(penalty,))
    fold_N = torch.from_numpy(stratified_folds(labels_N.numpy(), 3, spec.seed))
    (found,) = spec.score(features_ND, labels_N, 4)
    problem = standardise(features_ND, labels_N, 4)
    x_ND = (features_ND - problem.mean_D) / problem.std_D
    for fold in range(3):
        kept, left = fold_N != fold, fold_N == fold
        weight_KD, bias_K = minimised_by_torch(x_ND[kept], labels_N[kept], penalty)
        expected = (x_ND[left] @ weight_KD.T + bias_K).argmax(1)
        assert (found.predicted_N[left] == expected).double().mean() > 0.97


def test_the_only_image_of_a_class_gets_no_prediction_and_absent_classes_none() -> None:
    features_ND, labels_N = blobs((20, 8, 1))
    labels_N = torch.where(labels_N > 0, labels_N + 1, labels_N)
    for found in QuickLogisticSpec().score(features_ND, labels_N, 5):
        assert ((found.predicted_N == NO_PREDICTION) == (labels_N == 3)).all()
        assert not ((found.predicted_N == 1) | (found.predicted_N == 4)).any()
        assert torch.isfinite(torch.tensor(found.balanced_loss))
    head = QuickLogisticSpec().fit(features_ND, labels_N, 5, 0.01)
    assert not torch.isin(head.logits(features_ND).argmax(1), torch.tensor([1, 4])).any()


def test_an_image_that_stands_for_three_counts_as_three() -> None:
    features_ND, labels_N = blobs((12, 12, 5, 4))
    images_K = torch.tensor([36, 12, 5, 4])
    extra_N = (labels_N == 0).nonzero().squeeze(1)
    # The same, by repeating the images; they share a fold with their copies.
    spec = QuickLogisticSpec(grid=(0.01,), steps=100, folds=2)
    (found,) = spec.score(features_ND, labels_N, 4, images_K=images_K)
    (plain,) = spec.score(features_ND, labels_N, 4)
    full_ND, full_N = (
        torch.cat([features_ND] + 2 * [features_ND[extra_N]]),
        torch.cat([labels_N] + 2 * [labels_N[extra_N]]),
    )
    fold_N = torch.from_numpy(stratified_folds(labels_N.numpy(), 2, 0))
    folds = torch.cat([fold_N] + 2 * [fold_N[extra_N]])
    agree = []
    for fold in range(2):
        kept = folds != fold
        head = LogisticSpec(tolerance=1e-10).fit(full_ND[kept], full_N[kept], 4, 0.01)
        agree.append(
            (head.logits(features_ND[fold_N == fold]).argmax(1) == found.predicted_N[fold_N == fold]).double().mean()
        )
    assert min(agree) > 0.9
    assert plain.balanced_loss != found.balanced_loss


def test_scores_are_repeatable_and_broken_features_an_error() -> None:
    features_ND, labels_N = blobs()
    first, again = (QuickLogisticSpec().score(features_ND, labels_N, 4) for _ in range(2))
    assert all(torch.equal(a.predicted_N, b.predicted_N) for a, b in zip(first, again, strict=True))
    assert [a.balanced_loss for a in first] == [b.balanced_loss for b in again]
    with pytest.raises(DataError, match="two classes"):
        QuickLogisticSpec().score(features_ND, torch.zeros_like(labels_N), 4)
    features_ND[0, 0] = float("nan")
    with pytest.raises(WorkError, match="finite"):
        QuickLogisticSpec().score(features_ND, labels_N, 4)


@pytest.mark.parametrize("counts", [(5, 4), (30, 20, 10)])
def test_constant_features_and_more_features_than_images(counts: tuple[int, ...]) -> None:
    features_ND, labels_N = blobs(counts, dimension=80)
    features_ND[:, 3] = 7.0
    for found in QuickLogisticSpec().score(features_ND, labels_N, len(counts)):
        assert (found.predicted_N == labels_N).double().mean() > 0.5
