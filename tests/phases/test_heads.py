"""Heads compared: every unit once, a result whatever the time, honest baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import nasimb.phases.heads as heads
from nasimb.errors import WorkError
from nasimb.heads.head import Head
from nasimb.heads.logistic import LogisticSpec
from nasimb.phases.choice import Choice, merit
from nasimb.phases.heads import FILE, PLAIN, HeadWork
from nasimb.phases.search import search
from nasimb.search.limits import Limits
from nasimb.search.trial import Candidate

Workshop = Callable[..., Any]
ROLES = {"winner", "smallest", "largest", "largest_plain_head", "random"}


def searched(shop: Any, trials: int = 6) -> list[Any]:
    return search(shop.session, shop.scoring, shop.question, max_trials=trials, reserve_seconds=lambda finished: 0.0)


def largest(shop: Any) -> Candidate:
    return Candidate(shop.ground.space.largest(), "source")


def test_units_are_written_once_and_not_repeated_after_a_resume(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop()
    trials = searched(shop)
    shop.work.measure_largest(largest(shop))
    choices = shop.work.choose(trials, Limits())
    assert set(choices) == ROLES
    lines = shop.run.read_lines(FILE)
    units = [(str(line["choices"][0]["subnet"]), str(line["unit"])) for line in lines]
    assert len(units) == len(set(units))

    def repeated(*args: object, **options: object) -> None:
        raise AssertionError("a finished unit is computed again")

    monkeypatch.setattr(heads, "by_folds", repeated)
    again = HeadWork(shop.session, shop.scoring, shop.work.comparison, num_test=100)
    again.measure_largest(largest(shop))
    assert again.choose(trials, Limits()) == choices
    assert shop.run.read_lines(FILE) == lines


def test_without_time_every_role_keeps_its_ranking_head(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = workshop(limit=100.0)
    trials = searched(shop)
    with shop.session.ledger.phase("head"):
        shop.clock.now += 99.9
        shop.work.measure_largest(largest(shop))
        choices = shop.work.choose(trials, Limits())
    assert set(choices) == ROLES
    assert shop.run.read_lines(FILE) == []
    by_candidate = {trial.candidate: trial for trial in trials}
    for role in ROLES - {"largest_plain_head"}:
        trial = by_candidate[choices[role].candidate]
        assert (choices[role].head, choices[role].setting) == (trial.head, trial.setting)
        assert choices[role].estimator == "leave-one-out"
    assert choices["largest_plain_head"].head == PLAIN
    assert choices["largest_plain_head"].candidate == largest(shop)


def test_the_plain_baseline_is_unweighted_cross_entropy(workshop: Workshop) -> None:
    shop = workshop()
    trials = searched(shop, 3)
    shop.work.measure_largest(largest(shop))
    plain = shop.work.choose(trials, Limits())["largest_plain_head"]
    assert plain.head == "cross_entropy"  # no post-hoc correction either
    fitted, labels_N = shop.scoring.fitted, shop.scoring.fitted.labels_N
    features_ND = shop.work.features(plain.candidate, fitted)
    head = shop.work.fit(plain, features_ND, labels_N)
    assert isinstance(head, Head)
    # At the optimum of unweighted cross entropy the mean probabilities are the class shares (free bias).
    tight = LogisticSpec(loss="cross_entropy", penalties=(plain.setting,), tolerance=1e-12, max_iterations=2000)
    oracle = tight.fit(features_ND, labels_N, fitted.num_classes, plain.setting)
    shares_K = oracle.logits(features_ND).softmax(1).mean(0)
    torch.testing.assert_close(shares_K.double(), (fitted.class_counts_K / len(fitted)).double(), atol=2e-3, rtol=0.0)
    mean_K = head.logits(features_ND).softmax(1).mean(0)
    torch.testing.assert_close(mean_K, shares_K, atol=2e-2, rtol=0.0)


def test_ties_go_to_the_smaller_loss(workshop: Workshop) -> None:
    candidate = Candidate(workshop().ground.space.smallest(), "source")
    choice = Choice(candidate, "gda", 0.1, 0.9, 0.5, {}, "5-fold", 1.0)
    surer, ranked = replace(choice, balanced_loss=0.4), replace(choice, balanced_loss=None)
    better = replace(choice, value=0.91, balanced_loss=9.0)
    assert max([choice, surer, ranked], key=merit) is surer
    assert max([choice, surer, better], key=merit) is better
    assert Choice.from_line(choice.to_line()) == choice


def test_the_winner_keeps_the_limits_the_largest_does_not(workshop: Workshop) -> None:
    shop = workshop()
    trials = searched(shop, 8)
    limits = Limits(max_macs=sorted(trial.macs for trial in trials)[3])
    choices = shop.work.choose(trials, limits)
    macs = {trial.candidate: trial.macs for trial in trials}
    assert macs[choices["winner"].candidate] <= limits.max_macs < macs[choices["largest"].candidate]
    with pytest.raises(WorkError, match="within the limits"):
        shop.work.choose(trials, Limits(max_macs=1))


def test_time_left_goes_to_the_next_best_candidates(workshop: Workshop) -> None:
    shop = workshop("heads.count=1", limit=1e6)
    trials = searched(shop, 6)
    shop.work.choose(trials, Limits())
    assert len({str(line["choices"][0]["subnet"]) for line in shop.run.read_lines(FILE)}) == 6


def test_a_head_that_fails_is_said_and_the_others_go_on(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = workshop()
    trials = searched(shop, 3)
    original = heads.by_folds

    def failing(head: Any, *args: Any, **options: Any) -> Any:
        if head == "gda":
            raise WorkError("a matrix must be invertible", got="this one", do="Nothing.")
        return original(head, *args, **options)

    monkeypatch.setattr(heads, "by_folds", failing)
    choices = shop.work.choose(trials, Limits())
    assert choices["winner"].head == "balanced_softmax"
    assert any("gda" in line and "invertible" in line for line in shop.watcher.lines)


def test_on_a_hold_out_heads_are_fitted_without_it(workshop: Workshop) -> None:
    shop = workshop(source="target")
    assert shop.scoring.validation is not None
    assert not set(shop.scoring.fitted.indices_N.tolist()) & set(shop.scoring.validation.indices_N.tolist())
    choices = shop.work.choose(searched(shop, 3), Limits())
    assert {choice.estimator for choice in choices.values()} <= {"holdout", "not held out"}
