"""Which images screen, and who goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from nasimb.search.screening import (
    LEAST,
    SHARE,
    WORTHWHILE,
    Screen,
    awaiting,
    chosen,
    class_capped,
    full_seconds,
    promotion_macs,
    ranked,
)
from nasimb.search.trial import CACHED, FAILED, FINISHED, SCREENED, Candidate, Trial
from nasimb.space import SearchSpace

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


def trial(number: int, score: float, macs: int = 1, state: str = SCREENED, **values: Any) -> Trial:
    candidate = Candidate(SearchSpace.load("digits-resnet").smallest(), "source")
    return Trial(
        number=number, state=state, kind="sampler", candidate=candidate, macs=macs, params=1, screen_score=score,
        score=score if state == FINISHED else None, **values,
    )  # fmt: skip


points = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), min_size=1, max_size=30)


@given(points=points, eta=st.integers(2, 9))
def test_one_objective_takes_the_best_share_and_the_earlier_of_equals(points: list[tuple[int, int]], eta: int) -> None:
    trials = [trial(number, score, macs) for number, (score, macs) in enumerate(points)]
    found = ranked(trials, None)[: -(-len(points) // eta)]
    assert chosen(ranked(trials, None), eta) == found  # none of them is random
    expected = sorted(trials, key=lambda one: (-(one.screen_score or 0.0), one.number))
    assert found == expected[: len(found)]


@given(points=points, eta=st.integers(2, 9))
def test_a_pareto_search_takes_those_first_that_none_dominates(points: list[tuple[int, int]], eta: int) -> None:
    trials = [trial(number, score, macs) for number, (score, macs) in enumerate(points)]

    def dominated(one: Trial) -> int:
        score, macs = points[one.number]
        return sum(s >= score and m <= macs and (s, m) != (score, macs) for s, m in points)

    found = ranked(trials, "macs")[: -(-len(points) // eta)]
    worst = max(dominated(one) for one in found)
    assert all(dominated(one) >= worst for one in trials if one not in found)


def test_what_waits_is_neither_scored_in_full_nor_failed_there() -> None:
    trials = [
        trial(0, 0.9, state=FINISHED), trial(1, 0.8, reason="NaN"), trial(2, 0.7), trial(3, 0.1),
        Trial(number=4, state=FAILED, kind="random", candidate=trial(0, 0.0).candidate, macs=1, params=1),
        replace(trial(5, 0.95), state=CACHED),
    ]  # fmt: skip
    order = ranked(trials, None)
    assert [one.number for one in chosen(order, 2)] == [0, 1]
    assert awaiting(chosen(order, 2)) == []
    assert [one.number for one in awaiting(chosen(order, 1))] == [2, 3]


def test_the_best_random_one_is_promoted_too() -> None:
    trials = [trial(number, 0.9 - number / 100) for number in range(9)]
    trials[5], trials[7] = replace(trials[5], kind="random"), replace(trials[7], kind="random")
    assert [one.number for one in chosen(ranked(trials, None), 4)] == [0, 1, 2, 5]
    assert [one.number for one in chosen(ranked(trials, None), 9)] == [0, 5]
    assert [one.number for one in chosen(ranked(trials, None), 1)] == list(range(9))


def test_what_promotion_will_take_follows_macs_and_what_full_scores_took() -> None:
    full = [trial(0, 0.5, 100, FINISHED, seconds=2.0), trial(1, 0.6, 300, FINISHED, seconds=4.0)]
    assert full_seconds(200, full) == 200 * 6.0 / 400
    assert full_seconds(200, full[:0]) == 0.0
    waiting = [trial(number, 0.7 + number / 100, 50) for number in range(2, 10)]
    # Ten screened, one in five: the two best, of 50 MACs each, and after ten more two besides.
    assert promotion_macs(ranked([*full, *waiting], None), 5, 0) == 100
    assert promotion_macs(ranked([*full, *waiting], None), 5, 10) == 200


def test_the_receipt_says_what_was_spared() -> None:
    screen = Screen(torch.arange(10), None, 4)
    promoted = [trial(0, 0.9, 100, FINISHED, seconds=5.0)]
    found = screen.receipt([*promoted, *(trial(number, 0.1, 100, seconds=1.0) for number in (1, 2, 3))], 100)
    assert found == {
        "images": 10, "of_images": 100, "eta": 4, "screened": 4, "promoted": 1, "saved_seconds": 12.0,
    }  # fmt: skip
