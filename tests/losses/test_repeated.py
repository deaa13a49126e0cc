"""Images that come several times: every loss sees the class counts of images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nasimb.losses import LOSSES, parse_loss
from nasimb.losses.repeated import repeated

COUNTS_K = torch.tensor([50, 7, 1])


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_that_of_the_images(name: str) -> None:
    options: dict[str, Any] = {"name": name, **({"class_balanced": True} if name in ("ldam", "focal") else {})}
    logits_BK = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    labels_B = torch.tensor([0, 0, 0, 1, 1, 2])
    plain, wrapped = parse_loss(options), parse_loss(repeated(options, 3))
    assert (wrapped.balances, wrapped.cosine_scale) == (plain.balances, plain.cosine_scale)
    for phase, single in zip(wrapped.phases(3 * COUNTS_K), plain.phases(COUNTS_K), strict=True):
        assert phase.share == single.share
        torch.testing.assert_close(phase.loss(logits_BK, labels_B), single.loss(logits_BK, labels_B))
    torch.testing.assert_close(
        wrapped.build(3 * COUNTS_K)(logits_BK, labels_B), plain.build(COUNTS_K)(logits_BK, labels_B)
    )


def test_effective_numbers_alone_would_notice() -> None:
    """Why the wrapper is needed, and for which losses only."""
    logits_BK, labels_B = torch.zeros(2, 3).double() + torch.arange(3.0), torch.tensor([0, 2])
    noticed = set()
    for name in LOSSES:
        loss = parse_loss({"name": name, **({"class_balanced": True} if name in ("ldam", "focal") else {})})
        values = [loss.build(times * COUNTS_K)(logits_BK, labels_B) for times in (1, 200)]
        if not torch.isclose(*values, rtol=1e-6):
            noticed.add(name)
    assert noticed == {"class_balanced", "ldam", "focal", "deferred"}


def test_a_tau_belongs_to_the_correction_or_to_the_loss() -> None:
    assert repeated({"name": "logit_adjusted", "tau": 0.5}, 2)["loss"] == {"name": "logit_adjusted", "tau": 0.5}
    corrected = repeated({"name": "cross_entropy", "posthoc": "logit_adjustment", "tau": 1.0}, 2)
    assert corrected["loss"] == {"name": "cross_entropy"}
    assert (corrected["posthoc"], corrected["tau"]) == ("logit_adjustment", 1.0)
