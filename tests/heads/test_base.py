"""Heads that share sweeps, and streams: the same numbers as one head at a time over all images."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import by_hand
import numpy as np
import pytest
import torch
from by_hand import ByHand, features_and_labels
from pydantic import ValidationError
from torch import Tensor

from nasimb.errors import DataError, WorkError
from nasimb.heads.base import (
    ClosedFormSpec,
    LeaveOneOut,
    MomentSpec,
    fit_stream,
    leave_one_out,
    leave_one_out_stream,
)  # fmt: skip
from nasimb.heads.gda import GdaSpec
from nasimb.heads.head import Head
from nasimb.heads.moments import Chunks
from nasimb.heads.quick import QuickLogisticSpec
from nasimb.heads.ridge import RidgeSpec

HEADS: tuple[MomentSpec, ...] = (
    RidgeSpec(grid=(0.01, 0.3), taus=(0.0, 0.5)),
    GdaSpec(grid=(0.1,), class_weighting="inverse_frequency"),
    GdaSpec(grid=(0.01, 0.5)),
    RidgeSpec(class_weighting="effective_number", beta=0.9),
)


class Constant(ClosedFormSpec):
    """Predicts one class: a head that does not live on moments."""

    name: str = "constant"
    grid: tuple[float, ...] = (1.0,)

    def score(
        self, features_ND: Tensor, labels_N: Tensor, num_classes: int, *, images_K: Tensor | None = None
    ) -> list[LeaveOneOut]:
        del num_classes, images_K
        return [LeaveOneOut(self.name, 1.0, torch.ones_like(labels_N), 0.5)]

    def fit(
        self, features_ND: Tensor, labels_N: Tensor, num_classes: int, setting: float, *, images_K: Tensor | None = None
    ) -> Head:
        raise NotImplementedError


def data(counts: list[int], dimension: int) -> tuple[Tensor, Tensor]:
    features_ND, labels_N = features_and_labels(counts, dimension)
    return torch.tensor(features_ND), torch.tensor(labels_N)


def chunked(features_ND: Tensor, labels_N: Tensor, size: int) -> Chunks:
    def chunks() -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(features_ND.split(size), labels_N.split(size), strict=True)

    return chunks


def assert_same(found: list[LeaveOneOut], expected: list[LeaveOneOut], rel: float) -> None:
    assert [(a.name, a.setting, a.tau) for a in found] == [(b.name, b.setting, b.tau) for b in expected]
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.predicted_N, b.predicted_N)
        assert a.balanced_loss == pytest.approx(b.balanced_loss, rel=rel)


@pytest.mark.parametrize("images_K", [None, torch.tensor([300, 12, 0, 5])])
def test_heads_that_share_sweeps_score_as_alone(images_K: Tensor | None) -> None:
    features_ND, labels_N = data([30, 12, 0, 5], 6)
    heads = (HEADS[0], Constant(), *HEADS[1:])
    alone = [one for head in heads for one in head.score(features_ND, labels_N, 4, images_K=images_K)]
    assert_same(leave_one_out(heads, features_ND, labels_N, 4, images_K=images_K), alone, rel=1e-12)


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(("counts", "dimension"), [([30, 12, 0, 5, 1], 6), ([6, 4], 25)])
def test_a_stream_gives_what_all_images_give(size: int, counts: list[int], dimension: int) -> None:
    features_ND, labels_N = data(counts, dimension)
    features_ND[:, 3] = 0.1  # a constant feature
    counts_K, chunks = torch.tensor(counts), chunked(features_ND, labels_N, size)
    found = leave_one_out_stream(HEADS, chunks, counts_K)
    assert_same(found, leave_one_out(HEADS, features_ND, labels_N, len(counts)), rel=1e-9)
    for head in HEADS:
        streamed = fit_stream(head, chunks, counts_K, 0.2, tau=0.3)
        whole = head.fit(features_ND, labels_N, len(counts), 0.2, tau=0.3)
        for a, b in zip(streamed.tensors().values(), whole.tensors().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b[b > -1e8].abs().max()))


def test_a_second_sweep_over_other_images_is_an_error() -> None:
    features_ND, labels_N = data([9, 6], 3)
    counts_K, whole = torch.tensor([9, 6]), (features_ND, labels_N)
    once = iter([whole])
    with pytest.raises(DataError, match="got 0 images in the second sweep"):
        leave_one_out_stream(HEADS, lambda: once, counts_K)
    for second, told in (((features_ND[:9], labels_N[:9]), "got 9 images"), (whole, "got more than 15 images")):
        sweeps = iter([[whole], [second, whole] if second is whole else [second]])
        with pytest.raises(DataError, match=told):
            leave_one_out_stream(HEADS, lambda sweeps=sweeps: next(sweeps), counts_K)


@pytest.mark.parametrize("images_K", [None, torch.tensor([300, 12, 0, 5])])
@pytest.mark.parametrize("spec", [*HEADS, QuickLogisticSpec(), GdaSpec(taus=(0.0, 1.0))])
def test_a_grid_of_fits_is_every_fit(spec: ClosedFormSpec, images_K: Tensor | None) -> None:
    features_ND, labels_N = data([30, 12, 0, 5], 6)
    found = spec.fit_grid(features_ND, labels_N, 4, images_K=images_K)
    scored = spec.score(features_ND, labels_N, 4, images_K=images_K)
    assert [(setting, head.setting, head.tau) for setting, head in found] == [
        (one.setting, one.setting, one.tau) for one in scored
    ]
    for setting, head in found:
        alone = spec.chosen(head.tau).fit(features_ND, labels_N, 4, setting, images_K=images_K)
        torch.testing.assert_close(head.weight_KD, alone.weight_KD, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(head.bias_K, alone.bias_K, rtol=1e-3, atol=1e-4)
        assert alone.tau == head.tau


@pytest.mark.parametrize("spec", [RidgeSpec(class_weighting="inverse_sqrt"), GdaSpec(), QuickLogisticSpec(steps=100)])
def test_images_that_stand_for_more_are_fitted_as_so_many(spec: ClosedFormSpec) -> None:
    features_ND, labels_N = data([12, 9, 5], 4)
    tripled = torch.cat([features_ND, *2 * [features_ND[labels_N == 0]]]), torch.cat([labels_N, torch.zeros(24).long()])
    images_K = torch.tensor([36, 9, 5])
    parts = spec.fit_grid(features_ND, labels_N, 3, images_K=images_K)
    for (_, part), (_, whole) in zip(parts, spec.fit_grid(*tripled, 3), strict=True):
        torch.testing.assert_close(part.weight_KD, whole.weight_KD, rtol=1e-2, atol=1e-3)
    _, plain = spec.fit_grid(features_ND, labels_N, 3)[0]
    assert (parts[0][1].weight_KD - plain.weight_KD).abs().max() > 0.01


def test_how_images_are_held_out() -> None:
    assert GdaSpec().estimator == RidgeSpec().estimator == "leave-one-out"
    assert QuickLogisticSpec(folds=4).estimator == "4-fold"


def test_a_stream_with_a_broken_chunk_never_fits() -> None:
    features_ND, labels_N = data([9, 6], 3)
    features_ND[-1, 0] = float("nan")
    with pytest.raises(WorkError, match="1 of 5 images"):
        fit_stream(RidgeSpec(), chunked(features_ND, labels_N, 5), torch.tensor([9, 6]), 0.1)
    with pytest.raises(DataError, match="images"):
        fit_stream(RidgeSpec(), chunked(features_ND[:5], labels_N[:5], 5), torch.tensor([9, 6]), 0.1)


@pytest.mark.parametrize("spec", [RidgeSpec(grid=(0.02,), taus=(0.0, 1.0)), GdaSpec(grid=(0.05,))])
def test_8142_classes_of_few_images_against_refits(spec: MomentSpec) -> None:
    """The size of iNaturalist 2018: 300 classes with two or three images, one image of every other."""
    rng = np.random.default_rng(0)
    counts_K = np.ones(8142, dtype=np.int64)
    counts_K[rng.choice(8142, 300, replace=False)] = rng.integers(2, 4, 300)
    features_ND, labels_N = features_and_labels(counts_K.tolist(), 6)
    results = spec.score(torch.tensor(features_ND), torch.tensor(labels_N), 8142)
    problem = ByHand.of(features_ND, labels_N, spec.class_weighting, None)
    left_out = rng.choice(np.flatnonzero(counts_K[labels_N] > 1), 4, replace=False)
    for found in results:
        assert (found.predicted_N[torch.tensor(counts_K[labels_N] == 1)] == -1).all()
        adjustment_P = found.tau * (problem.log_prior_P - problem.log_prior_P.mean())
        for i in left_out:
            kept_N = np.flatnonzero(np.arange(len(labels_N)) != i)
            if spec.name == "ridge":
                scores_P = problem.ridge_scores(kept_N, problem.x_ND[i], found.setting) - adjustment_P / 8142
            else:
                scores_P = fast_gda_scores(problem, kept_N, problem.x_ND[i], found.setting)
            assert found.predicted_N[i] == scores_P.argmax()


def fast_gda_scores(problem: ByHand, kept_N: np.ndarray, query_D: np.ndarray, shrinkage: float) -> np.ndarray:
    """`ByHand.gda_scores` without a loop over the classes."""
    x_ND, labels_N, weights_N = problem.x_ND[kept_N], problem.labels_N[kept_N], problem.weights_N[kept_N]
    sums_KD = np.zeros((8142, x_ND.shape[1]))
    np.add.at(sums_KD, labels_N, x_ND)
    means_KD = sums_KD / np.bincount(labels_N)[:, None]
    deviations_ND = x_ND - means_KD[labels_N]
    factor = len(problem.x_ND) / (len(kept_N) - 8142)
    covariance_DD = factor * deviations_ND.T @ (weights_N[:, None] * deviations_ND)
    shrunk_DD = (1 - shrinkage) * covariance_DD + shrinkage * np.eye(x_ND.shape[1])
    differences_DK = (query_D - means_KD).T
    return -0.5 * (differences_DK * np.linalg.solve(shrunk_DD, differences_DK)).sum(0)


def test_a_fit_keeps_no_chunk() -> None:
    given: list[weakref.ref[Tensor]] = []

    def chunks() -> Iterator[tuple[Tensor, Tensor]]:
        for seed in range(6):
            assert sum(chunk() is not None for chunk in given) <= 1  # the last one, perhaps
            features_BD = torch.randn(50, 4, generator=torch.Generator().manual_seed(seed))
            given.append(weakref.ref(features_BD))
            yield features_BD, torch.arange(50) % 5
            del features_BD

    fit_stream(GdaSpec(), chunks, torch.full((5,), 60), 0.1)
    assert len(given) == 6


def test_options_are_checked() -> None:
    assert RidgeSpec().class_weighting == "inverse_frequency"
    assert GdaSpec().class_weighting == "inverse_sqrt"
    assert RidgeSpec(beta=0.5).weighting == RidgeSpec(beta=0.6).weighting  # beta is the effective number's alone
    for wrong in ({"class_weighting": "none"}, {"taus": ()}, {"beta": 1.0}):
        with pytest.raises(ValidationError):
            RidgeSpec(**wrong)  # type: ignore[arg-type]


def test_losses_are_those_of_the_images_that_can_be_left_out() -> None:
    features_ND, labels_N = data([5, 1], 2)
    (found,) = RidgeSpec(grid=(0.1,)).score(features_ND, labels_N, 2)
    problem = ByHand.of(features_ND.numpy(), labels_N.numpy(), "inverse_frequency", None)
    _, loss = problem.expected(lambda kept_N, x_D: problem.ridge_scores(kept_N, x_D, 0.1), by_hand.squared_error)
    assert found.balanced_loss == pytest.approx(loss, rel=1e-9)
