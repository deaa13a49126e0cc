"""Searches with and without screening: cost and loss by hand, and one real pair."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nasimb.bench import screening
from nasimb.bench.base import Conditions, Skipped
from nasimb.bench.rows import Rows
from nasimb.bench.testbed import load_testbed
from nasimb.search.screening import Screen


def rows_of(seeds: int) -> Rows:
    rows = Rows(None, ("seed", "screened"), "abc")
    for seed in range(seeds):
        for screened in (True, False) if seed % 2 else (False, True):
            rows.append(
                {"seed": seed, "screened": screened, "seconds": (2.0 + seed) if screened else 10.0,
                 "winner_score": 0.8 - 0.002 * screened, "winner": "x", "finished": 3, "screened_out": 7, "rows": 10}
            )  # fmt: skip
    return rows


def test_cost_is_a_mean_of_ratios_and_loss_is_in_points() -> None:
    cost, lost = screening.figures(rows_of(3), candidates=10)
    assert cost.figure == "screened_cost"
    assert cost.value == pytest.approx((0.2 + 0.3 + 0.4) / 3)
    assert cost.repetitions == 3
    assert lost.figure == "screened_loss"
    assert lost.value == pytest.approx(0.2)
    assert lost.unit == "points"
    assert lost.met is True


def test_only_seeds_with_both_searches_count() -> None:
    whole, begun = list(screening.figures(rows_of(2), candidates=10)), rows_of(2)
    row = {"seconds": 99.0, "winner_score": 0.1, "winner": "x", "finished": 3, "screened_out": 7, "rows": 10}
    begun.append({"seed": 2, "screened": True, **row})
    begun.append({"seed": 3, "screened": False, **row})
    assert list(screening.figures(begun, candidates=10)) == whole
    assert screening.sgd_figure(begun, [5.0], 10) == screening.sgd_figure(rows_of(2), [5.0], 10)
    assert "2 seeds" in whole[0].against
    with pytest.raises(Skipped, match="both with screening and without"):
        list(screening.figures(rows_of(0), candidates=10))


def test_sgd_is_held_against_the_mean_candidate_of_screened_searches() -> None:
    figure = screening.sgd_figure(rows_of(2), [5.0, 10.0], candidates=10)
    assert figure.value == pytest.approx(7.5 / 0.25)
    assert figure.met is True


def test_one_search_each_way(quick: Callable[..., Conditions], monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = quick(clock=time.perf_counter, images=200)
    testbed = load_testbed(conditions, content=True)
    part = torch.arange(0, len(testbed.task.target), 3)
    screened = replace(testbed, scoring=replace(testbed.scoring, screen=Screen(part, None, 4)))
    monkeypatch.setattr(screening, "load_testbed", lambda *given, **named: screened)
    found = {figure.figure: figure for figure in screening.screening(conditions)}
    assert set(found) == {"screened_cost", "screened_loss", "score_over_sgd_screened"}
    assert found["screened_cost"].detail["screened_out"] > 0
    assert found["screened_cost"].value > 0
    assert found["screened_cost"].repetitions == 1
    assert {figure.provenance["data"] for figure in found.values()} == {"digits"}
    monkeypatch.setattr(screening, "QUICK_SEEDS", 9)
    more = {figure.figure: figure for figure in screening.screening(replace(conditions, seeds=2))}
    assert (more["screened_cost"].repetitions, more["screened_loss"].repetitions) == (2, 2)


def test_where_a_part_does_not_pay_it_says_so(quick: Callable[..., Conditions]) -> None:
    with pytest.raises(Skipped, match="too large a share"):
        list(screening.screening(quick()))
