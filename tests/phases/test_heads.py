"""Heads compared: every unit once, a result whatever the time, honest baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import nasimb.phases.headprobe as headprobe
import nasimb.phases.heads as heads
from nasimb.errors import NotFiniteError, WorkError
from nasimb.heads.head import Head
from nasimb.heads.logistic import LogisticSpec
from nasimb.phases.choice import Choice, merit
from nasimb.phases.headcosts import LARGEST_HEADS, MARGIN, LastPhase, Most
from nasimb.phases.heads import FILE, PLAIN, HeadWork
from nasimb.phases.search import search
from nasimb.search.limits import Limits
from nasimb.search.trial import Candidate, best_first

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


def test_the_largest_with_the_winners_norms_is_a_baseline_where_these_are_others(workshop: Workshop) -> None:
    shop = workshop("heads.count=1")
    trials = searched(shop, 8)
    other = next(trial for trial in trials if trial.score is not None and "nbn" in trial.candidate.subnet.norms)
    plain = next(trial for trial in trials if trial.kind == "largest")
    for favourite in (other, plain):
        choices = shop.work.choose([replace(one, score=2.0) if one is favourite else one for one in trials], Limits())
        assert choices["winner"].candidate == favourite.candidate
        found = choices.get("largest_normalised")
        if favourite is plain:
            assert found is None
            continue
        assert found is not None
        norms = favourite.candidate.subnet.norms
        assert found.candidate.subnet == replace(largest(shop).subnet, norms=norms)
        assert found.estimator == "2-fold"
        assert shop.run.read_lines(FILE)[-1]["choices"][0]["subnet"]["norms"] == list(norms)


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


def test_winners_of_before_an_extension_stand_for_election_again(workshop: Workshop) -> None:
    shop = workshop("heads.count=1")
    trials = searched(shop, 6)
    shop.work.choose(trials, Limits())
    ranked = [trial.candidate for trial in best_first(trials)]
    baselines = {trial.candidate for trial in trials if trial.kind in ("smallest", "largest")}
    former = next(candidate for candidate in ranked[1:] if candidate not in baselines)
    shop.work._try(former, ["gda"], 0.0, keep_seconds=0.0)
    better = replace(shop.work._done[former, repr("gda")][0], value=2.0)
    shop.work._done[former, repr("gda")] = [better]
    assert shop.work.choose(trials, Limits())["winner"].candidate == ranked[0]
    assert shop.work.choose(trials, Limits(), [former])["winner"] == better
    macs = next(trial.macs for trial in trials if trial.candidate == former)
    within = shop.work.choose(trials, Limits(max_macs=macs - 1), [former])
    assert within["winner"].candidate != former, "not over the limits, though"


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


def compared(shop: Any, **options: Any) -> HeadWork:
    """The comparison's work after it measured the largest subnet, one millisecond an image and a second a fit."""
    work = HeadWork(
        shop.session, shop.scoring, options.pop("comparison", shop.work.comparison), num_test=100, **options
    )
    work.measure_largest(largest(shop))
    work.costs = replace(work.costs, image_seconds=1e-3, fit_seconds={"gda": 1.0})
    return work


def networks(work: HeadWork) -> float:
    """Shown the test images, in units of the largest: it, with two norms, two average ones, and the smallest."""
    return 2 + 2 * work.costs.relative(work.costs.typical_share) + work.costs.smallest_seconds


def test_features_lost_with_a_kill_are_reserved_again(workshop: Workshop) -> None:
    shop = workshop()
    trials = searched(shop, 4)
    work = compared(shop)
    work.choose(trials, Limits())
    again = compared(shop)
    images = len(shop.ground.task.target)
    assert again.evaluate_seconds() - work.evaluate_seconds() == pytest.approx(MARGIN * networks(work) * images * 1e-3)


def test_features_that_were_not_kept_are_reserved_too(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = workshop()
    work = compared(shop)
    kept = work.evaluate_seconds()
    monkeypatch.setattr(heads, "KEPT_MIB", 0)
    images = len(shop.ground.task.target)
    assert compared(shop).evaluate_seconds() - kept == pytest.approx(MARGIN * networks(work) * images * 1e-3)


def test_crops_are_reserved(workshop: Workshop) -> None:
    shop = workshop()
    images = len(shop.ground.task.target)
    one, three = (compared(shop, comparison=replace(shop.work.comparison, crops=crops)) for crops in (1, 3))
    more = MARGIN * (networks(one) * 2 * images * 1e-3 + (LARGEST_HEADS + 1) * 2 * 1.0)
    # Two more passes over the target through each subnet, and each fit takes three seconds instead of one.
    assert three.evaluate_seconds() - one.evaluate_seconds() == pytest.approx(more)


def test_what_is_compared_leaves_time_to_fit_and_test_what_it_may_choose(workshop: Workshop) -> None:
    shop = workshop()
    trials = best_first(searched(shop, 6))
    work = compared(shop)
    work.costs = replace(work.costs, calibrate_seconds=0.0)
    baselines = [next(trial for trial in trials if trial.kind == kind) for kind in ("smallest", "largest")]
    other = next(trial for trial in trials if trial not in baselines)
    share = work.costs.relative(other.macs / baselines[1].macs)
    nothing = work._last_phase([baselines[1]], baselines)
    # The winner's head and the plain one; those of baselines that were not compared are closed forms.
    assert (nothing.subnets, nothing.fit_seconds) == (2, pytest.approx(3 * 1.0))
    one_more = work._last_phase([baselines[1], other], baselines)
    assert (one_more.subnets, one_more.networks) == (3, pytest.approx(nothing.networks + share))
    # Features of both ends were kept when they were measured; the other's are still to be made.
    assert (nothing.passed_again, one_more.passed_again) == (0.0, pytest.approx(share))
    assert work.evaluate_seconds(one_more) > work.evaluate_seconds(nothing)


def test_what_was_chosen_is_fitted_and_tested(workshop: Workshop) -> None:
    """By hand: the networks that were chosen, each with its own head, and the plain head of the largest."""
    shop = workshop(limit=1e6)
    trials = searched(shop, 6)
    choices = shop.work.choose(trials, Limits())
    work = shop.work
    fit_seconds = {repr(head): 10.0 for head in [PLAIN, *work.comparison.heads]}
    work.costs = replace(work.costs, image_seconds=0.1, calibrate_seconds=0.0, fit_seconds=fit_seconds)
    candidates = {choice.candidate for choice in choices.values()}
    networks = sum(
        work.costs.relative(work.scoring.cost_of(one.subnet)[0] / work.scoring.cost_of(shop.ground.space.largest())[0])
        for one in candidates
    )
    last = LastPhase(networks, 0.0, 10.0 * (len(candidates) + 1), len(candidates))
    assert work.chosen_seconds(choices) == pytest.approx(work.costs.evaluate_seconds(last))
    without = {kind: choice for kind, choice in choices.items() if kind != "largest_plain_head"}
    assert work.chosen_seconds(choices) - work.chosen_seconds(without) == pytest.approx(MARGIN * 10.0)
    work.costs = replace(work.costs, normalised=0)
    assert work.chosen_seconds(choices) > work.evaluate_seconds() + 10.0, "what was forecast is less"


def test_where_the_largest_fails_the_test_is_reserved_by_the_smallest(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop()
    statistics_of = headprobe.statistics_of

    def failing(scoring: Any, candidate: Candidate) -> Any:
        if candidate.subnet == shop.ground.space.largest():
            raise NotFiniteError("features must be finite", got="NaN", do="Train longer.")
        shop.clock.now += 1.0
        return statistics_of(scoring, candidate)

    monkeypatch.setattr(headprobe, "statistics_of", failing)
    work = HeadWork(shop.session, shop.scoring, shop.work.comparison, num_test=100)
    work.measure_largest(largest(shop))
    assert any("The largest subnet cannot be used: " in line for line in shop.watcher.lines)
    assert work.costs.calibrate_seconds == pytest.approx(1.0 / work.costs.smallest_share)
    assert work.evaluate_seconds() > 1.0


def test_the_largest_is_calibrated_no_more_often_than_it_must_be(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once to warm up, which gives its own statistics, and once timed under the policy that takes the most images."""
    shop = workshop(calibrations=("source", "mixed"))
    asked: list[Candidate] = []
    statistics_of = headprobe.statistics_of
    monkeypatch.setattr(
        headprobe, "statistics_of", lambda scoring, one: asked.append(one) or statistics_of(scoring, one)
    )  # fmt: skip
    work = HeadWork(shop.session, shop.scoring, shop.work.comparison, num_test=100)
    work.measure_largest(largest(shop))
    smallest = shop.ground.space.smallest()
    assert asked == [
        largest(shop), replace(largest(shop), calibration="mixed"), Candidate(smallest, "mixed"),
        Candidate(smallest, "source"),
    ]  # fmt: skip


def test_finalists_are_expected_to_cost_what_subnets_cost_on_average(workshop: Workshop) -> None:
    shop = workshop(limit=1e6)
    work = compared(shop)
    work.most = Most(float("inf"), float("inf"))
    space, macs = shop.ground.space, shop.scoring.cost_of
    rng = np.random.default_rng(5)
    expected = np.mean([macs(space.sample(rng))[0] for _ in range(500)]) / macs(space.largest())[0]
    with_features, reserved = work.tail_seconds(10), work.evaluate_seconds()
    work.costs = replace(work.costs, image_seconds=0.0)
    features = with_features - reserved - (work.tail_seconds(10) - work.evaluate_seconds())
    candidates = shop.work.comparison.count + len(heads.BASELINES)
    images = len(shop.scoring.fitted)
    assert work.costs.typical_share == pytest.approx(expected, rel=0.15)
    share = work.costs.relative(work.costs.typical_share)
    # And the largest once more, with other norms.
    assert features == pytest.approx(MARGIN * (candidates * share + 1) * images * 1e-3, rel=0.02)


def test_what_comes_after_the_winner_is_kept_from_heads(workshop: Workshop) -> None:
    shop = workshop(limit=1000.0)
    trials = searched(shop)
    asked: list[Candidate] = []

    def keeping(seconds: float) -> Callable[[Candidate], float]:
        return lambda winner: asked.append(winner) or seconds  # type: ignore[func-returns-value]

    shop.work.choose(trials, Limits(), keep_seconds=keeping(1001.0))
    assert shop.run.read_lines(FILE) == [], "no head has the time"
    assert {best_first(trials)[0].candidate} < set(asked), "whoever may win"
    shop.work.choose(trials, Limits(), keep_seconds=keeping(900.0))
    assert shop.run.read_lines(FILE)


def test_heads_keep_no_more_than_their_share_of_the_time(workshop: Workshop) -> None:
    shop = workshop(limit=100.0)
    with shop.session.ledger.phase("head"):
        shop.clock.now += 15.0  # the largest subnet's heads take so long
        work = compared(shop)
    work.costs = replace(work.costs, image_seconds=10.0)
    assert work.tail_seconds(10) - work.evaluate_seconds() == pytest.approx(5.0)
    with shop.session.ledger.phase("head"):
        shop.clock.now += 15.0
        work.measure_largest(largest(shop))
    work.costs = replace(work.costs, image_seconds=10.0)
    assert work.tail_seconds(10) == work.evaluate_seconds()


def test_what_was_measured_before_a_kill_is_not_again(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = workshop()

    def again() -> HeadWork:
        return HeadWork(shop.session, shop.scoring, shop.work.comparison, num_test=100)

    first = again()
    first.measure_largest(largest(shop))
    measured: list[int] = []
    whole = heads.measured_networks
    monkeypatch.setattr(heads, "measured_networks", lambda *args: measured.append(1) or whole(*args))
    second = again()
    second.measure_largest(largest(shop))
    assert not measured
    assert second.costs == first.costs
    # Another task costs something else, and so does another device.
    other = HeadWork(shop.session, shop.scoring, shop.work.comparison, num_test=101)
    other.measure_largest(largest(shop))
    assert measured == [1]
    shop.run.write_json(heads.COSTS_FILE, {"cuda": (shop.run.read_json(heads.COSTS_FILE) or {})["cpu"]})
    again().measure_largest(largest(shop))
    assert measured == [1, 1]
    file = shop.run.path / heads.COSTS_FILE
    file.write_bytes(file.read_bytes().replace(b"smallest", b"smollest"))
    again().measure_largest(largest(shop))
    assert measured == [1, 1, 1]
    assert any("is damaged; what it says is measured again" in line for line in shop.watcher.lines)


def test_features_at_hand_are_not_expected_to_take_time_again(workshop: Workshop) -> None:
    """With images held out too, whose comparison is paid for by what was made to measure it."""
    shop = workshop("validation=holdout", limit=100.0)
    with shop.session.ledger.phase("head"):
        work = HeadWork(shop.session, shop.scoring, shop.work.comparison, num_test=100)
        work._measure(largest(shop), [PLAIN, *work.comparison.heads])
        work.costs = replace(work.costs, calibrate_seconds=1000.0)
        assert work._try(largest(shop), work.comparison.heads, 0.0, keep_seconds=0.0)
        assert not work._try(
            Candidate(shop.ground.space.smallest(), "natural"), work.comparison.heads, 0.0, keep_seconds=0.0
        )
