"""The Gaussian discriminant against refits without each image, written out in NumPy."""

from __future__ import annotations

import by_hand
import numpy as np
import pytest
import torch
from by_hand import ByHand, features_and_labels
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from nasimb.errors import WorkError
from nasimb.heads.base import LeaveOneOut
from nasimb.heads.gda import GdaSpec
from nasimb.heads.moments import PART_BYTES

CASES = {
    "plain": ([20, 7, 3], 4),
    "more features than images": ([6, 4, 2], 30),
    "two classes": ([12, 2], 5),
    "a class with one image": ([9, 4, 1, 2], 6),
    "a class without images": ([8, 0, 5, 2], 6),
    "more classes than fit a part's images": ([2] * 40, 3),
}


def check_leave_one_out(found: LeaveOneOut, problem: ByHand) -> None:
    adjustment_P = found.tau * (problem.log_prior_P - problem.log_prior_P.mean())
    predicted_N, loss = problem.expected(
        lambda kept_N, query_D: problem.gda_scores(kept_N, query_D, found.setting) - adjustment_P, by_hand.log_loss
    )
    np.testing.assert_array_equal(found.predicted_N.numpy(), predicted_N)
    assert found.balanced_loss == pytest.approx(loss, rel=1e-7)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shrinkage", [1e-4, 1e-2, 0.2, 1.0])
def test_leave_one_out_equals_a_refit_without_each_image(
    case: str, shrinkage: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, dimension = CASES[case]
    if len(counts) > 30:
        monkeypatch.setattr("nasimb.heads.base.FEWEST_ROWS", 16)
        monkeypatch.setitem(PART_BYTES, "cpu", 1)
    features_ND, labels_N = features_and_labels(counts, dimension)
    features_ND[:, 1] = -7.0  # a constant feature
    (found,) = GdaSpec(grid=(shrinkage,)).score(torch.tensor(features_ND), torch.tensor(labels_N), len(counts))
    check_leave_one_out(found, ByHand.of(features_ND, labels_N, "inverse_sqrt", None))


@pytest.mark.parametrize("weighting", ["inverse_frequency", "inverse_sqrt", "effective_number"])
@pytest.mark.parametrize("images_K", [None, [90, 7, 0, 3, 1]])
def test_every_weighting_of_all_images_or_a_part_of_them(weighting: str, images_K: list[int] | None) -> None:
    features_ND, labels_N = features_and_labels([15, 7, 0, 3, 1], 6)
    spec = GdaSpec(grid=(0.01, 0.3), class_weighting=weighting, beta=by_hand.BETA, taus=(0.0, 1.0, -0.7))  # type: ignore[arg-type]
    whole_K = None if images_K is None else torch.tensor(images_K)
    problem = ByHand.of(features_ND, labels_N, weighting, images_K)
    results = spec.score(torch.tensor(features_ND), torch.tensor(labels_N), 5, images_K=whole_K)
    assert [(one.setting, one.tau) for one in results] == [(s, t) for s in spec.grid for t in spec.taus]
    for found in results:
        check_leave_one_out(found, problem)


def test_a_part_in_which_an_image_stands_for_several_is_the_whole_that_repeats_it() -> None:
    features_ND, labels_N = (torch.tensor(a) for a in features_and_labels([6, 4, 3], 4))
    part = labels_N != 2
    doubled_ND = torch.cat([features_ND[part], features_ND[part], features_ND[~part]])
    doubled_N = torch.cat([labels_N[part], labels_N[part], labels_N[~part]])
    whole = GdaSpec().fit(doubled_ND, doubled_N, 3, 0.2)
    scored = GdaSpec(grid=(0.2,)).score(features_ND, labels_N, 3, images_K=torch.tensor([12, 8, 3]))
    refit = GdaSpec(grid=(0.2,)).score(features_ND, labels_N, 3)
    assert scored[0].balanced_loss != pytest.approx(refit[0].balanced_loss, rel=1e-3)
    problem = ByHand.of(features_ND.numpy(), labels_N.numpy(), "inverse_sqrt", [12, 8, 3])
    expected_NP = np.stack([problem.gda_scores(np.arange(13), x_D, 0.2) for x_D in problem.x_ND])
    logits_NK = whole.logits(features_ND).numpy()
    np.testing.assert_allclose(logits_NK - logits_NK[:, :1], expected_NP - expected_NP[:, :1], atol=1e-9)


@pytest.mark.parametrize("weighting", ["inverse_frequency", "inverse_sqrt", "effective_number"])
def test_fit_equals_the_definition(weighting: str) -> None:
    features_ND, labels_N = features_and_labels([30, 20, 10], 5)
    spec = GdaSpec(class_weighting=weighting, beta=by_hand.BETA)  # type: ignore[arg-type]
    head = spec.fit(torch.tensor(features_ND), torch.tensor(labels_N), 3, 0.3, tau=0.4)
    problem = ByHand.of(features_ND, labels_N, weighting, None)
    scores_NP = np.stack([problem.gda_scores(np.arange(60), x_D, 0.3) for x_D in problem.x_ND])
    scores_NP -= 0.4 * problem.log_prior_P
    logits_NK = head.logits(torch.tensor(features_ND)).numpy()
    # A linear head drops the term that all classes share.
    np.testing.assert_allclose(logits_NK - logits_NK[:, :1], scores_NP - scores_NP[:, :1], atol=1e-9)


def test_fit_agrees_with_scikit_learn_without_shrinkage_on_balanced_classes() -> None:
    features_ND, labels_N = features_and_labels([20, 20, 20], 5)
    almost_none = GdaSpec().fit(torch.tensor(features_ND), torch.tensor(labels_N), 3, 1e-9)
    theirs = LinearDiscriminantAnalysis(solver="svd", priors=[1 / 3] * 3).fit(features_ND, labels_N)
    ours_N = almost_none.logits(torch.tensor(features_ND)).argmax(1).numpy()
    np.testing.assert_array_equal(ours_N, theirs.predict(features_ND))


def test_minus_the_prior_is_scikit_learns_discriminant_with_the_natural_prior() -> None:
    features_ND, labels_N = features_and_labels([40, 15, 5], 3)
    # effective_number with beta 0 weighs all images alike; tau -1 gives the prior back.
    spec = GdaSpec(class_weighting="effective_number", beta=0.0)
    head = spec.fit(torch.tensor(features_ND), torch.tensor(labels_N), 3, 1e-10, tau=-1.0)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(features_ND, labels_N)
    log_posterior_NK = torch.log_softmax(head.logits(torch.tensor(features_ND)) * (60 / 57), 1).numpy()
    # Theirs divides the covariance by N, ours by N - P, so the distances (not the prior) differ by a factor.
    prior_K = np.log(np.array([40, 15, 5]) / 60) * (60 / 57 - 1)
    shifted_NK = log_posterior_NK - prior_K
    shifted_NK -= np.log(np.exp(shifted_NK).sum(1, keepdims=True))
    np.testing.assert_allclose(shifted_NK, theirs.predict_log_proba(features_ND), atol=1e-6)


def test_classes_whose_images_are_all_alike_are_finite_and_right() -> None:
    features_ND = torch.tensor([[0.0, 1.0], [0.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    labels_N = torch.tensor([0, 0, 1, 1])
    for found in GdaSpec().score(features_ND, labels_N, 2):
        assert found.predicted_N.tolist() == [0, 0, 1, 1]
        assert np.isfinite(found.balanced_loss)
    assert torch.isfinite(GdaSpec().fit(features_ND, labels_N, 2, 1e-4).weight_KD).all()


def test_features_that_are_not_finite_never_score() -> None:
    features_ND = torch.randn(6, 2)
    features_ND[0, 0] = float("nan")
    with pytest.raises(WorkError, match="finite"):
        GdaSpec().score(features_ND, torch.tensor([0, 0, 0, 1, 1, 1]), 2)


@pytest.mark.parametrize("counts", [[20, 7, 3], [8, 0, 5, 2], [9, 4, 1, 2]])
def test_posteriors_are_those_of_a_refit_without_each_image(counts: list[int]) -> None:
    features_ND, labels_N = features_and_labels(counts, 5)
    problem = ByHand.of(features_ND, labels_N, "inverse_sqrt", None)
    seen_N: list[np.ndarray] = []

    def scores(kept_N: np.ndarray, query_D: np.ndarray) -> np.ndarray:
        seen_N.append(problem.gda_scores(kept_N, query_D, 0.2))
        return seen_N[-1]

    problem.expected(scores, by_hand.log_loss)
    found_NK = GdaSpec().posteriors(torch.tensor(features_ND), torch.tensor(labels_N), len(counts), 0.2).numpy()
    judged_N = np.bincount(labels_N)[labels_N] > 1
    expected_NP = np.exp(np.stack(seen_N))
    expected_NP /= expected_NP.sum(1, keepdims=True)
    present = np.unique(labels_N)
    np.testing.assert_allclose(found_NK[judged_N][:, present], expected_NP, rtol=1e-6, atol=1e-12)
    assert np.isnan(found_NK[~judged_N]).all()
    assert (np.delete(found_NK[judged_N], present, axis=1) == 0).all()
