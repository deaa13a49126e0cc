from __future__ import annotations

import pytest

from nasimb.bench import budgets
from nasimb.bench.base import Skipped
from nasimb.bench.budgets import Spent, figures
from nasimb.errors import WorkError


def by_name(runs, refused=()):
    return {figure.figure: figure for figure in figures(runs, refused)}


def test_figures_by_hand():
    runs = [Spent(10, 9.5, 10.2), Spent(50, 50.5, 51.5), Spent(200, 198, 203)]
    found = by_name(runs, [5])
    assert found["overrun_median"].value == pytest.approx(-1.0)
    assert found["overrun_median"].met
    assert found["overrun_worst"].value == pytest.approx(0.5)  # half a second of the one that is allowed
    assert found["overrun_outside_median"].value == pytest.approx(2.0)
    assert not found["overrun_outside_median"].met
    assert found["overrun_outside_worst"].value == pytest.approx(1.5)  # 3 s where 1 % is 2 s, 1.5 s where 1 s is
    assert found["utilisation_median"].value == pytest.approx(99.0)
    assert found["utilisation_lowest"].value == pytest.approx(95.0)
    assert "refused as too small: 5 s" in found["overrun_worst"].against
    assert found["overrun_outside_median"].detail == {"10s": 10.2, "50s": 51.5, "200s": 203}


def test_budgets_reach_from_ten_seconds_to_two_minutes():
    limits = budgets._limits()
    assert (limits[0], limits[-1], len(set(limits))) == (10, 120, 20)


@pytest.mark.slow
def test_a_real_run_is_timed_by_itself_and_from_outside(quick):
    found = {figure.figure: figure for figure in budgets.budgets(quick())}
    spent, outside = found["overrun_median"].detail["20s"], found["overrun_outside_median"].detail["20s"]
    assert 10 < spent <= 21
    assert spent < outside < spent + 3
    assert found["overrun_worst"].met


def test_refused_budgets_are_no_runs(quick, monkeypatch):
    monkeypatch.setattr(budgets, "QUICK_SECONDS", 1)
    with pytest.raises(Skipped, match=r"refused as too small.*: 1 s"):
        list(budgets.budgets(quick()))


def test_a_search_that_fails_is_no_refusal(quick, monkeypatch):
    monkeypatch.setattr(budgets, "QUICK_SECONDS", "no budget")
    with pytest.raises(WorkError, match="a search must end; got nasimb: a budget must be a number with a unit"):
        list(budgets.budgets(quick()))
