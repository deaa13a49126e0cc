"""Orders of images: right shares, evenly mixed, and a function of (seed, step)."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nasimb.supernet.sampling import Sampling, batches_from, class_shares, draw, generator_for

LABELS_N = torch.tensor([0] * 40 + [1] * 10 + [3] * 2)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [("natural", [0.9, 0.1, 0.0]), ("balanced", [0.5, 0.5, 0.0]), ("sqrt", [0.75, 0.25, 0.0])],
)
def test_shares(sampling: Sampling, expected: list[float]) -> None:
    torch.testing.assert_close(class_shares(torch.tensor([81, 9, 0]), sampling), torch.tensor(expected).double())


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any), st.integers(1, 60), st.integers(0, 99))
def test_a_draw_has_its_length_its_shares_and_no_needless_repeats(counts: list[int], length: int, seed: int) -> None:
    labels_N = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    shares_K = class_shares(torch.tensor(counts), "balanced")
    drawn = draw(labels_N, shares_K, length, generator_for(seed))
    assert len(drawn) == length
    for k, count in enumerate(counts):
        times = torch.bincount(drawn[labels_N[drawn] == k], minlength=len(labels_N))[labels_N == k]
        assert abs(int(times.sum()) - float(shares_K[k]) * length) < 1
        if count:
            assert int(times.max()) - int(times.min()) <= 1


def test_natural_draws_of_a_whole_set_are_permutations() -> None:
    drawn = draw(LABELS_N, class_shares(torch.bincount(LABELS_N), "natural"), len(LABELS_N), generator_for(0))
    assert sorted(drawn.tolist()) == list(range(len(LABELS_N)))
    assert drawn.tolist() != list(range(len(LABELS_N)))


@given(st.integers(0, 999), st.integers(1, 100))
def test_every_stretch_of_an_order_keeps_the_classes_mixed(seed: int, stretch: int) -> None:
    labels_N = torch.arange(5).repeat_interleave(20)
    drawn = draw(labels_N, torch.full((5,), 0.2).double(), 100, generator_for(seed))
    for window in labels_N[drawn].unfold(0, stretch, max(stretch // 2, 1)):
        assert int((torch.bincount(window, minlength=5) - stretch / 5).abs().max()) <= 2


def first_batches(count: int, first_step: int = 0, batch_size: int = 7, seed: int = 0) -> list[Tensor]:
    return list(islice(batches_from(first_step, LABELS_N, "natural", batch_size, seed), count))


@given(st.integers(0, 30))
def test_batches_can_be_taken_up_at_any_step(first_step: int) -> None:
    """A batch size that does not divide the set, so that batches reach over the end of an epoch."""
    resumed, whole = first_batches(4, first_step), first_batches(first_step + 4)
    assert [batch.tolist() for batch in resumed] == [batch.tolist() for batch in whole[first_step:]]


def test_every_epoch_shows_every_image_once_in_another_order() -> None:
    shown = torch.cat(first_batches(52, batch_size=4))
    epochs = shown.view(4, 52)
    assert all(sorted(epoch.tolist()) == list(range(52)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_a_batch_may_be_larger_than_the_set() -> None:
    (batch,) = first_batches(1, batch_size=110)
    assert len(batch) == 110
    assert int(torch.bincount(batch).min()) == 2


def test_neighbouring_keys_have_unrelated_generators() -> None:
    drawn = [torch.rand(1, generator=generator_for(*key)).item() for key in [(0, 1), (1, 0), (0, 2), (0, 1, 0)]]
    assert len(set(drawn)) == 4
    assert torch.rand(1, generator=generator_for(0, 1)).item() == drawn[0]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any), st.integers(1, 40), st.integers(0, 99))
def test_an_order_puts_the_jth_image_of_a_class_into_the_jth_part(counts: list[int], length: int, seed: int) -> None:
    """By brute force: sorted by class, each in its own order, images must lie where the rule allows them to."""
    labels_N = torch.from_numpy(np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)))
    drawn = draw(labels_N, class_shares(torch.tensor(counts), "sqrt"), length, generator_for(seed))
    classes = labels_N[drawn].tolist()
    quota = [classes.count(k) for k in range(len(counts))]
    for k, total in enumerate(quota):
        for j, position in enumerate(place for place, label in enumerate(classes) if label == k):
            # Images in front of it: at least what every class is sure to have had, at most what it may have had.
            earliest = sum(int(np.floor(j / total * other)) for other in quota)
            latest = sum(int(np.ceil((j + 1) / total * other)) for other in quota)
            assert earliest - len(counts) <= position <= latest


def test_thousands_of_classes_are_drawn_at_once() -> None:
    """Every class by a search of its own would touch 1.6 billion labels here."""
    labels_N = torch.arange(8000).repeat(25)
    drawn = draw(labels_N, class_shares(torch.bincount(labels_N), "balanced"), len(labels_N), generator_for(0))
    assert torch.equal(drawn.sort().values, torch.arange(len(labels_N)))
