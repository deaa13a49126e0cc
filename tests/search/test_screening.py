"""Which images screen, and who goes on."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasimb.search.screening import LEAST, SHARE, WORTHWHILE, class_capped, promoted

counts_strategy = st.lists(st.integers(0, 400), min_size=2, max_size=12).filter(lambda counts: sum(counts) > 0)


def labels_of(counts: list[int], seed: int = 0) -> torch.Tensor:
    labels_N = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels_N[torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(seed))]


@given(counts=counts_strategy, seed=st.integers(0, 5))
def test_rare_classes_are_whole_and_frequent_ones_capped_alike(counts: list[int], seed: int) -> None:
    labels_N = labels_of(counts)
    part_M = class_capped(labels_N, seed=seed)
    counts_K = torch.bincount(labels_N)
    if part_M is None:
        assert int(counts_K.clamp(max=LEAST).sum()) > WORTHWHILE * len(labels_N)
        return
    assert torch.equal(part_M, part_M.unique())
    kept_K = torch.bincount(labels_N[part_M], minlength=len(counts_K))
    cap = int(kept_K.max())
    assert torch.equal(kept_K, counts_K.clamp(max=cap))
    # No larger cap would keep to the share.
    if cap > LEAST:
        assert len(part_M) <= SHARE * len(labels_N)
    if cap < int(counts_K.max()):
        assert int(counts_K.clamp(max=cap + 1).sum()) > SHARE * len(labels_N) or cap == LEAST


def test_a_given_cap_is_kept_and_the_seed_chooses_the_images() -> None:
    labels_N = labels_of([300, 40, 4])
    first, again, other = (class_capped(labels_N, seed=seed, cap=30) for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.bincount(labels_N[first]).tolist() == [30, 30, 4]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert class_capped(labels_N, seed=1, cap=200) is None


def test_small_or_even_targets_are_not_screened() -> None:
    assert class_capped(labels_of([30, 20, 10]), seed=0) is None
    assert class_capped(labels_of([20] * 50), seed=0) is None


@given(
    scores=st.lists(st.integers(0, 6).map(lambda n: n / 6), min_size=1, max_size=40, unique=False),
    eta=st.integers(2, 9),
)
def test_one_objective_promotes_the_best_share_of_those_so_far(scores: list[float], eta: int) -> None:
    none = np.zeros(0)
    assert promoted(scores[0], 0.0, none, none, eta)
    before = np.array(scores[:-1])
    better_or_equal = sum(score >= scores[-1] for score in scores[:-1])
    expected = better_or_equal < -(-len(scores) // eta)
    assert promoted(scores[-1], 0.0, before, np.zeros(len(before)), eta) is expected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30), st.integers(2, 6))
def test_a_pareto_search_promotes_whoever_none_dominates(points: list[tuple[int, int]], eta: int) -> None:
    *before, (score, cost) = points
    scores_T, costs_T = np.array([s for s, _ in before], float), np.array([c for _, c in before], float)
    if not any(s >= score and c <= cost for s, c in before):
        assert promoted(score, cost, scores_T, costs_T, eta)


def test_about_one_in_eta_of_exchangeable_candidates_goes_on() -> None:
    scores = np.random.default_rng(0).normal(size=2000)
    chosen = [promoted(score, 0.0, scores[:i], np.zeros(i), 8) for i, score in enumerate(scores)]
    assert 0.12 < np.mean(chosen) < 0.14
