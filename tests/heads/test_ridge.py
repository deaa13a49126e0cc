"""The ridge head against refits of the plain normal equations, written out in NumPy."""

from __future__ import annotations

import by_hand
import numpy as np
import pytest
import torch
from by_hand import ByHand, features_and_labels

from nasimb.errors import DataError, WorkError
from nasimb.heads import moments as moments_module
from nasimb.heads import ridge as ridge_module
from nasimb.heads.base import LeaveOneOut
from nasimb.heads.ridge import RidgeSpec

CASES = {
    "plain": ([20, 7, 3], 4),
    "more features than images": ([6, 4, 2], 30),
    "two classes": ([12, 3], 5),
    "a class with one image": ([9, 4, 1, 2], 6),
    "a class without images": ([8, 0, 5, 2], 6),
}


def check_leave_one_out(
    found: LeaveOneOut, problem: ByHand, *, tau: float = 0.0, adjustment_P: np.ndarray | float = 0.0
) -> None:
    predicted_N, loss = problem.expected(
        lambda kept_N, query_D: problem.ridge_scores(kept_N, query_D, found.setting) - tau * adjustment_P,
        by_hand.squared_error,
    )
    np.testing.assert_array_equal(found.predicted_N.numpy(), predicted_N)
    assert found.balanced_loss == pytest.approx(loss, rel=1e-7)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("penalty", [1e-3, 0.1, 3.0])
def test_leave_one_out_equals_a_refit_without_each_image(case: str, penalty: float) -> None:
    counts, dimension = CASES[case]
    features_ND, labels_N = features_and_labels(counts, dimension)
    features_ND[:, 0] = 4.2  # a constant feature
    (found,) = RidgeSpec(grid=(penalty,)).score(torch.tensor(features_ND), torch.tensor(labels_N), len(counts))
    check_leave_one_out(found, ByHand.of(features_ND, labels_N, "inverse_frequency", None))


@pytest.mark.parametrize("weighting", ["inverse_frequency", "inverse_sqrt", "effective_number"])
@pytest.mark.parametrize("images_K", [None, [90, 7, 0, 3, 1]])
def test_every_weighting_of_all_images_or_a_part_of_them(weighting: str, images_K: list[int] | None) -> None:
    features_ND, labels_N = features_and_labels([15, 7, 0, 3, 1], 6)
    spec = RidgeSpec(grid=(0.01, 0.3), class_weighting=weighting, beta=by_hand.BETA)  # type: ignore[arg-type]
    whole_K = None if images_K is None else torch.tensor(images_K)
    problem = ByHand.of(features_ND, labels_N, weighting, images_K)
    for found in spec.score(torch.tensor(features_ND), torch.tensor(labels_N), 5, images_K=whole_K):
        check_leave_one_out(found, problem)


def test_logit_adjustment_lowers_the_scores_by_the_log_prior_over_the_number_of_classes() -> None:
    features_ND, labels_N = features_and_labels([15, 7, 2], 3, seed=4)
    spec = RidgeSpec(grid=(0.01, 0.3), taus=(0.0, 0.8, -0.5))
    images_K = [70, 7, 2]
    problem = ByHand.of(features_ND, labels_N, "inverse_frequency", images_K)
    adjustment_P = (problem.log_prior_P - problem.log_prior_P.mean()) / 3
    results = spec.score(torch.tensor(features_ND), torch.tensor(labels_N), 3, images_K=torch.tensor(images_K))
    assert [(one.setting, one.tau) for one in results] == [(s, t) for s in spec.grid for t in spec.taus]
    for found in results:
        check_leave_one_out(found, problem, tau=found.tau, adjustment_P=adjustment_P)
    assert not torch.equal(results[0].predicted_N, results[1].predicted_N)


def test_the_fit_folds_the_adjustment_into_the_bias() -> None:
    features_ND, labels_N = (torch.tensor(a) for a in features_and_labels([20, 0, 7, 3], 5))
    plain = RidgeSpec().fit(features_ND, labels_N, 4, 0.05)
    adjusted = RidgeSpec().fit(features_ND, labels_N, 4, 0.05, tau=1.5)
    assert torch.equal(plain.weight_KD, adjusted.weight_KD)
    log_prior_P = np.log(np.array([20, 7, 3]) / 30)
    lowered_K = (plain.bias_K - adjusted.bias_K).numpy()
    np.testing.assert_allclose(lowered_K[[0, 2, 3]], 1.5 * (log_prior_P - log_prior_P.mean()) / 3, atol=1e-12)
    assert lowered_K[1] == 0.0


@pytest.mark.parametrize("weighting", ["inverse_frequency", "inverse_sqrt", "effective_number"])
def test_fit_equals_the_normal_equations(weighting: str) -> None:
    features_ND, labels_N = features_and_labels([20, 0, 7, 3], 5)
    spec = RidgeSpec(class_weighting=weighting, beta=by_hand.BETA)  # type: ignore[arg-type]
    head = spec.fit(torch.tensor(features_ND), torch.tensor(labels_N), 4, 0.05)
    problem = ByHand.of(features_ND, labels_N, weighting, None)
    expected_NP = np.stack([problem.ridge_scores(np.arange(30), x_D, 0.05) for x_D in problem.x_ND])
    logits_NK = head.logits(torch.tensor(features_ND)).numpy()
    np.testing.assert_allclose(logits_NK[:, [0, 2, 3]], expected_NP, atol=1e-10)
    assert (logits_NK[:, 1] < -1e8).all()


def test_parts_and_groups_of_settings_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, labels_N = (torch.tensor(a) for a in features_and_labels([40, 20, 9], 6))
    spec = RidgeSpec(taus=(0.0, 1.0))
    whole = spec.score(features_ND, labels_N, 3)
    monkeypatch.setattr(moments_module, "FEWEST_ROWS", 1)
    monkeypatch.setattr("nasimb.heads.base.FEWEST_ROWS", 1)
    monkeypatch.setitem(moments_module.PART_BYTES, "cpu", 7 * 8 * 6)  # seven images, two settings
    parts = spec.score(features_ND, labels_N, 3)
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a.predicted_N, b.predicted_N)
        assert a.balanced_loss == pytest.approx(b.balanced_loss, rel=1e-10)


@pytest.mark.parametrize(("images", "dimension"), [(12, 20), (3, 150)])
def test_single_precision_predicts_as_double_does(images: int, dimension: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, labels_N = (torch.tensor(a) for a in features_and_labels([9 * images] + [images] * 39, dimension))
    features_ND[:, 1] = features_ND[:, 0] + 1e-5 * features_ND[:, 1]  # nearly the same twice
    spec = RidgeSpec(grid=tuple(np.logspace(-7, 2, 12).tolist()), taus=(0.0, 0.5))
    mixed = spec.score(features_ND, labels_N, 40)
    monkeypatch.setattr(ridge_module, "CLASSES_FOR_FLOAT32", 1000)
    double = spec.score(features_ND, labels_N, 40)
    for a, b in zip(mixed, double, strict=True):
        assert torch.equal(a.predicted_N, b.predicted_N)
        assert a.balanced_loss == pytest.approx(b.balanced_loss, rel=1e-6)
    # With more features than images all leverages are near 1, and all is done in double precision.
    assert all(a.balanced_loss == b.balanced_loss for a, b in zip(mixed, double, strict=True)) == (dimension == 150)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_never_score(bad: float) -> None:
    features_ND, labels_N = (torch.tensor(a) for a in features_and_labels([5, 5], 3))
    features_ND[4, 1] = bad
    with pytest.raises(WorkError, match="1 of 10 images"):
        RidgeSpec().score(features_ND, labels_N, 2)


def test_one_class_is_not_enough() -> None:
    with pytest.raises(DataError, match="two classes"):
        RidgeSpec().fit(torch.randn(5, 3), torch.zeros(5, dtype=torch.int64), 2, 0.1)


def test_features_are_not_changed() -> None:
    features_ND, labels_N = (torch.tensor(a) for a in features_and_labels([9, 5], 3))
    before_ND = features_ND.clone()
    RidgeSpec().score(features_ND, labels_N, 2)
    assert torch.equal(features_ND, before_ND)
