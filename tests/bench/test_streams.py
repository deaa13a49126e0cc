"""Orders of a test set: what each keeps, and how classes follow each other in it."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasimb.bench.streams import STREAMS, by_class, iid, long_tailed, runs

LABELS_N = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 1000))


def seen_runs(labels_M: np.ndarray) -> list[int]:
    return [len(list(group)) for _, group in groupby(labels_M.tolist())]


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), seed=st.integers(0, 9))
def test_no_image_comes_twice_and_only_a_long_tail_leaves_some_out(labels: list[int], seed: int) -> None:
    if len(set(labels)) < 2:
        labels = [*labels, 5]  # a long tail needs two classes
    labels_N = np.array(labels)
    for name, stream in STREAMS.items():
        order_M = stream(labels_N, seed)
        assert len(set(order_M.tolist())) == len(order_M)
        assert order_M.tolist() == stream(labels_N, seed).tolist()
        if name != "longtail":
            assert sorted(order_M.tolist()) == list(range(len(labels_N)))
        assert set(labels_N[order_M]) == set(labels)


def test_the_seed_decides() -> None:
    for stream in STREAMS.values():
        assert stream(LABELS_N, 0).tolist() != stream(LABELS_N, 1).tolist()


def test_random_order_mixes_classes() -> None:
    lengths = seen_runs(LABELS_N[iid(LABELS_N, 3)])
    assert np.mean(lengths) == pytest.approx(10 / 9, rel=0.02)  # the next is of another class nine times in ten


def test_class_after_class() -> None:
    labels_M = LABELS_N[by_class(LABELS_N, 0)]
    assert seen_runs(labels_M) == [1000] * 10
    assert labels_M[::1000].tolist() != list(range(10))


def test_runs_are_as_long_as_asked_for() -> None:
    # Of 1000 images, each but the first begins a run with probability 1 / 50; a tenth continue the class before.
    lengths = [length for seed in range(20) for length in seen_runs(LABELS_N[runs(LABELS_N, seed)])]
    assert np.mean(lengths) == pytest.approx(1000 / (1 + 999 / 50) / 0.9, rel=0.04)
    assert 0.7 < np.std(lengths) / np.mean(lengths) < 1.1  # geometric: about as spread as long
    short = [length for seed in range(5) for length in seen_runs(LABELS_N[runs(LABELS_N, seed, mean_length=5)])]
    assert np.mean(short) == pytest.approx(1000 / (1 + 999 / 5) / 0.9, rel=0.04)


def test_a_long_tail_by_hand() -> None:
    counts_K = np.bincount(LABELS_N[long_tailed(LABELS_N, 0)], minlength=10)
    by_hand = [int(1000 * 100 ** (-k / 9) + 1e-9) for k in range(10)]
    assert sorted(counts_K.tolist(), reverse=True) == by_hand
    heads = {int(np.bincount(LABELS_N[long_tailed(LABELS_N, seed)]).argmax()) for seed in range(20)}
    assert len(heads) > 5


def test_a_long_tail_of_few_images_keeps_every_class() -> None:
    labels_N = np.repeat(np.arange(10), 20)
    counts_K = np.bincount(labels_N[long_tailed(labels_N, 0)])
    assert (counts_K.max(), counts_K.min(), len(counts_K)) == (20, 1, 10)


def test_a_long_tail_is_mixed() -> None:
    labels_M = LABELS_N[long_tailed(LABELS_N, 0)]
    head = np.bincount(labels_M).argmax()
    first, second = np.array_split(labels_M == head, 2)
    assert first.mean() == pytest.approx(second.mean(), abs=0.05)
