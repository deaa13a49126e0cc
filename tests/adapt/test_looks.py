"""A look takes a few images of a batch, whatever their order."""

from __future__ import annotations

import pytest
import torch

from nasimb.adapt.looks import LOOK, only, some


@pytest.mark.parametrize("images", [1, 63, 64])
def test_small_batches_are_taken_whole_and_uncopied(images: int) -> None:
    batch = torch.rand(images, 3)
    assert some(batch, 0) is None
    assert only(batch, None) is batch


@pytest.mark.parametrize("period", [2, 5, 10])
def test_of_large_batches_all_that_take_turns_are_seen(period: int) -> None:
    turn_B = torch.arange(640) % period
    seen = []
    for number in range(200):
        positions = some(turn_B, number)
        assert positions is not None
        assert positions.unique().tolist() == positions.tolist()
        assert len(positions) == LOOK
        seen.append(torch.bincount(only(turn_B, positions), minlength=period))
    # Hypergeometric counts: mean 64 / period, a variance a tenth below the binomial one.
    counts = torch.stack(seen).double()
    share = 1 / period
    assert counts.mean(0).tolist() == pytest.approx([LOOK * share] * period, rel=0.1)
    deviation = (LOOK * share * (1 - share) * (640 - LOOK) / 639) ** 0.5
    assert float(counts.std()) == pytest.approx(deviation, rel=0.15)


def test_the_same_batch_is_looked_at_alike() -> None:
    batch = torch.rand(100, 2)
    first, again, other = some(batch, 3), some(batch, 3), some(batch, 4)
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
