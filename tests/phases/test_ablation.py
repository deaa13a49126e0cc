"""Calibration policies on the winner's subnet: exact, for nothing where it can be, never at the cost of the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import nasimb.phases.ablation as ablation
from nasimb.phases.ablation import NO_TIME, compare_calibrations
from nasimb.phases.choice import SHOWN
from nasimb.phases.search import search
from nasimb.search.candidate import rank
from nasimb.search.trial import FINISHED, Candidate, best_first

Workshop = Callable[..., Any]
POLICIES = ("source", "target-natural", "target-balanced", "mixed", "inherit", "reset", "update")


def searched(shop: Any) -> list[Any]:
    trials: list[Any] = search(
        shop.session, shop.scoring, shop.question, max_trials=6, reserve_seconds=lambda finished: 0.0
    )
    shop.work.measure_largest(Candidate(shop.ground.space.largest(), "source"))
    return trials


def test_every_policy_of_the_run_has_its_score_and_its_gain(workshop: Workshop) -> None:
    shop = workshop(calibrations=POLICIES)
    trials = searched(shop)
    winner = best_first(trials)[0].candidate
    found = compare_calibrations(shop.session, shop.scoring, shop.work, winner, trials)
    assert found is not None
    assert (found["subnet"], found["base"], found["left_out"]) == (str(winner.subnet), "source", {})
    assert set(found["policies"]) == set(POLICIES)
    base = rank(shop.scoring, Candidate(winner.subnet, "source")).metrics
    for policy, one in found["policies"].items():
        alone = rank(shop.scoring, Candidate(winner.subnet, policy)).metrics
        for name in SHOWN:
            value, other = getattr(alone, name), getattr(base, name)
            assert one["validation"][name] == value
            assert one["gain"][name] == (None if value is None else value - other)
    accuracies = {one["validation"]["balanced_accuracy"] for one in found["policies"].values()}
    assert len(accuracies) > 2, "policies differ"


def test_a_run_of_one_policy_has_nothing_to_compare(workshop: Workshop) -> None:
    shop = workshop()
    winner = Candidate(shop.ground.space.largest(), "source")
    assert compare_calibrations(shop.session, shop.scoring, shop.work, winner, []) is None


def test_finished_trials_cost_nothing_and_without_time_the_rest_is_left_out(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop(calibrations=("source", "mixed", "reset"), limit=100.0)
    trials = searched(shop)
    winner = Candidate(shop.ground.space.largest(), "mixed")
    known = replace(trials[0], candidate=winner, state=FINISHED, balanced_accuracy=0.25, few=None, seconds=1.0)
    monkeypatch.setattr(shop.work, "evaluate_seconds", lambda: 99.0)
    monkeypatch.setattr(ablation, "evaluate_batch", lambda *args, **options: pytest.fail("there is no time for it"))
    found = compare_calibrations(shop.session, shop.scoring, shop.work, winner, [known])
    assert found is not None
    assert found["policies"]["mixed"]["validation"]["balanced_accuracy"] == 0.25
    assert found["policies"]["mixed"]["gain"] is None, "there is nothing to compare with"
    assert found["left_out"] == {"source": NO_TIME, "reset": NO_TIME}


def test_what_takes_too_long_is_given_up_for_the_test(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = workshop(calibrations=("source", "mixed"), limit=100.0)
    trials = searched(shop)
    winner = Candidate(shop.ground.space.largest(), "source")
    known = replace(best_first(trials)[0], candidate=winner, seconds=1.0)
    monkeypatch.setattr(shop.work, "evaluate_seconds", lambda: 90.0)
    settle = type(shop.scoring.supernet).settle

    def slow_settle(*args: Any) -> Any:
        shop.clock.now += 6.0
        return settle(*args)

    monkeypatch.setattr(type(shop.scoring.supernet), "settle", slow_settle)
    with shop.session.ledger.phase("search"):
        found = compare_calibrations(shop.session, shop.scoring, shop.work, winner, [known])
    assert found is not None
    assert set(found["policies"]) == {"source"}
    assert "s" in found["left_out"]["mixed"]
    assert found["left_out"]["mixed"] != NO_TIME
    assert shop.session.ledger.spent() < 30.0


def test_a_policy_that_fails_says_why(workshop: Workshop) -> None:
    shop = workshop(calibrations=("source", "inherit"))
    trials = searched(shop)
    policies = shop.scoring.calibrations
    broken = {
        key: replace_var(moments, float("nan")) for key, moments in policies["inherit"].inherited.items()
    }  # fmt: skip
    scoring = replace(
        shop.scoring, calibrations={**policies, "inherit": replace(policies["inherit"], inherited=broken)}
    )
    winner = Candidate(shop.ground.space.smallest(), "source")
    found = compare_calibrations(shop.session, scoring, shop.work, winner, trials)
    assert found is not None
    assert "finite" in found["left_out"]["inherit"]
    assert set(found["policies"]) == {"source"}


def replace_var(moments: Any, value: float) -> Any:
    return type(moments)(moments.mean_C, moments.var_C * value)
