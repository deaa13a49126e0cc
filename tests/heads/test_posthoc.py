"""Post-hoc corrections against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nasimb.heads.head import Head
from nasimb.heads.logistic import LogisticSpec
from nasimb.heads.posthoc import logit_adjusted, tau_normalised

COUNTS = [60, 20, 0, 4]


def fitted(loss: str) -> tuple[Head, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))
    features_ND = torch.randn(len(labels_N), 5, generator=generator, dtype=torch.float64) * 2 + 3
    features_ND[:, :4] += 2 * torch.nn.functional.one_hot(labels_N, 4)
    spec = LogisticSpec(loss=loss, tolerance=1e-14, max_iterations=2000)  # type: ignore[arg-type]
    return spec.fit(features_ND, labels_N, 4, 0.01), features_ND, labels_N


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_logit_adjustment(tau: float) -> None:
    head, features_ND, _ = fitted("cross_entropy")
    before_NK = head.logits(features_ND).numpy()
    after_NK = logit_adjusted(head, torch.tensor(COUNTS), tau).logits(features_ND).numpy()
    present = [0, 1, 3]
    expected = before_NK[:, present] - tau * np.log(np.array(COUNTS)[present] / sum(COUNTS))
    np.testing.assert_allclose(after_NK[:, present], expected, atol=1e-10)
    assert (after_NK[:, 2] < -1e8).all()


def test_adjusting_by_the_priors_equals_balanced_softmax() -> None:
    plain, features_ND, _ = fitted("cross_entropy")
    balanced, _, _ = fitted("balanced_softmax")
    adjusted = logit_adjusted(plain, torch.tensor(COUNTS), 1.0)
    difference_NK = (adjusted.logits(features_ND) - balanced.logits(features_ND))[:, [0, 1, 3]]
    assert (difference_NK - difference_NK.mean(1, keepdim=True)).abs().max() < 1e-4


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
def test_tau_normalisation(tau: float) -> None:
    head, features_ND, _ = fitted("cross_entropy")
    x_ND = ((features_ND - head.mean_D) / head.std_D).numpy()
    weight_KD = (head.weight_KD * head.std_D).numpy()[[0, 1, 3]]
    expected = x_ND @ (weight_KD / np.linalg.norm(weight_KD, axis=1, keepdims=True) ** tau).T
    found = tau_normalised(head, tau)
    np.testing.assert_allclose(found.logits(features_ND).numpy()[:, [0, 1, 3]], expected, atol=1e-9)
    assert (found.logits(features_ND)[:, 2] < -1e8).all()


def test_a_cosine_head_is_normalised_already() -> None:
    head, features_ND, _ = fitted("ldam")
    found = tau_normalised(head, 1.0)
    assert torch.equal(found.logits(features_ND), head.logits(features_ND))


def test_out_of_fold_adjustment_helps_the_tail_without_a_fit() -> None:
    _, features_ND, labels_N = fitted("cross_entropy")
    (plain,) = LogisticSpec(loss="cross_entropy", penalties=(0.01,), folds=3).cross_validate(  # type: ignore[arg-type]
        features_ND, labels_N, 4, seed=0
    )
    adjusted = plain.adjusted(features_ND, labels_N, lambda head: logit_adjusted(head, torch.tensor(COUNTS), 1.0))
    for i in range(0, len(labels_N), 7):
        head = logit_adjusted(plain.heads[int(plain.fold_N[i])], torch.tensor(COUNTS), 1.0)
        assert adjusted.predicted_N[i] == head.logits(features_ND[i : i + 1]).argmax()
    tail = labels_N == 3
    assert (adjusted.predicted_N[tail] == 3).sum() > (plain.predicted_N[tail] == 3).sum()
    assert adjusted.balanced_loss < plain.balanced_loss
