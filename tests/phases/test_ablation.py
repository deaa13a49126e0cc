"""Calibration policies on the winner's subnet: exact, for nothing where it can be, never at the cost of the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import nasimb.phases.ablation as ablation
from nasimb.errors import ResumeError
from nasimb.phases.ablation import FILE, NO_TIME, calibrations_keep, compare_calibrations
from nasimb.phases.choice import SHOWN, Choice
from nasimb.phases.headcosts import CALIBRATION_MARGIN, Most
from nasimb.phases.search import search
from nasimb.search.candidate import rank
from nasimb.search.engine import evaluate_batch
from nasimb.search.trial import FAILED, FINISHED, Candidate, Failure, Trial, best_first

Workshop = Callable[..., Any]
POLICIES = ("source", "target-natural", "target-balanced", "mixed", "inherit", "reset", "update")


def chosen(winner: Candidate) -> dict[str, Choice]:
    return {"winner": Choice.untried(winner, "gda", 0.1)}


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
    found = compare_calibrations(shop.session, shop.scoring, shop.work, chosen(winner), trials)
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
    assert compare_calibrations(shop.session, shop.scoring, shop.work, chosen(winner), []) is None


def test_finished_trials_cost_nothing_and_without_time_the_rest_is_left_out(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop(calibrations=("source", "mixed", "reset"), limit=100.0)
    trials = searched(shop)
    winner = Candidate(shop.ground.space.largest(), "mixed")
    known = replace(trials[0], candidate=winner, state=FINISHED, balanced_accuracy=0.25, few=None, seconds=1.0)
    monkeypatch.setattr(shop.work, "evaluate_seconds", lambda last: 99.0)
    monkeypatch.setattr(ablation, "evaluate_batch", lambda *args, **options: pytest.fail("there is no time for it"))
    found = compare_calibrations(shop.session, shop.scoring, shop.work, chosen(winner), [known])
    assert found is not None
    assert found["policies"]["mixed"]["validation"]["balanced_accuracy"] == 0.25
    assert found["policies"]["mixed"]["gain"] is None, "there is nothing to compare with"
    assert set(found["left_out"]) == {"source", "reset"}
    for policy, why in found["left_out"].items():
        assert why == f"{NO_TIME}: 1.5 s were needed, and 1.0 s there"
        assert any(policy in line and why in line for line in shop.watcher.lines)
    assert shop.run.read_lines(FILE) == [], "with more time it is another question"


def test_what_takes_too_long_is_given_up_for_the_test(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = workshop(calibrations=("source", "mixed"), limit=100.0)
    trials = searched(shop)
    winner = Candidate(shop.ground.space.largest(), "source")
    known = replace(best_first(trials)[0], candidate=winner, seconds=1.0)
    monkeypatch.setattr(shop.work, "evaluate_seconds", lambda last: 90.0)
    settle = type(shop.scoring.supernet).settle

    def slow_settle(*args: Any) -> Any:
        shop.clock.now += 6.0
        return settle(*args)

    monkeypatch.setattr(type(shop.scoring.supernet), "settle", slow_settle)
    with shop.session.ledger.phase("search"):
        found = compare_calibrations(shop.session, shop.scoring, shop.work, chosen(winner), [known])
    assert found is not None
    assert set(found["policies"]) == {"source"}
    assert "were predicted" in found["left_out"]["mixed"]
    assert not found["left_out"]["mixed"].startswith(NO_TIME)
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
    found = compare_calibrations(shop.session, scoring, shop.work, chosen(winner), trials)
    assert found is not None
    assert "finite" in found["left_out"]["inherit"]
    assert set(found["policies"]) == {"source"}


def test_what_was_compared_before_a_kill_is_not_compared_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop(calibrations=POLICIES)
    trials = searched(shop)
    winner = best_first(trials)[0].candidate
    policies = shop.scoring.calibrations
    broken = {key: replace_var(moments, float("nan")) for key, moments in policies["inherit"].inherited.items()}
    scoring = replace(
        shop.scoring, calibrations={**policies, "inherit": replace(policies["inherit"], inherited=broken)}
    )
    searched_too = [trial for trial in trials if trial.candidate.calibration != "inherit"]

    def interrupted(trial: Any, *args: Any, **options: Any) -> Any:
        if len(shop.run.read_lines(FILE)) == 3:
            raise KeyboardInterrupt
        return evaluate_batch(trial, *args, **options)

    monkeypatch.setattr(ablation, "evaluate_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare_calibrations(shop.session, scoring, shop.work, chosen(winner), searched_too)
    asked: list[Candidate] = []

    def counted(scoring: Any, proposals: Any, *args: Any, **options: Any) -> Any:
        asked.extend(proposal.candidate for proposal in proposals)
        return evaluate_batch(scoring, proposals, *args, **options)

    monkeypatch.setattr(ablation, "evaluate_batch", counted)
    before = {Trial.from_row(line).candidate for line in shop.run.read_lines(FILE)}
    first = compare_calibrations(shop.session, scoring, shop.work, chosen(winner), searched_too)
    assert len(before) == 3
    assert asked
    assert not before & set(asked)
    assert first is not None
    assert "finite" in first["left_out"]["inherit"]
    asked.clear()
    assert compare_calibrations(shop.session, scoring, shop.work, chosen(winner), searched_too) == first
    assert asked == [], "the failure is not tried again either"
    fresh = workshop(calibrations=POLICIES, folder="fresh")
    fresh.work.measure_largest(Candidate(shop.ground.space.largest(), "source"))
    assert compare_calibrations(fresh.session, scoring, fresh.work, chosen(winner), searched_too) == first, (
        "bit for bit"
    )


def test_a_damaged_score_is_refused_with_what_to_do(workshop: Workshop) -> None:
    shop = workshop(calibrations=("source", "reset"))
    winner = Candidate(shop.ground.space.smallest(), "source")
    compare_calibrations(shop.session, shop.scoring, shop.work, chosen(winner), [])
    file = shop.run.path / FILE
    assert len(file.read_bytes().splitlines()) == 2
    file.write_bytes(file.read_bytes().replace(b'"finished"', b'"finnished"'))
    with pytest.raises(ResumeError, match=r"calibrations\.jsonl .* its calibration is scored again"):
        compare_calibrations(shop.session, shop.scoring, shop.work, chosen(winner), [])


@pytest.mark.parametrize("change", [{"state": "finnished"}, {"macs": 7.5e3, "depths": 1}, {"taps": None}])
def test_a_score_of_another_version_is_refused(workshop: Workshop, change: dict[str, Any]) -> None:
    """The line says what was written, which is no trial of this version."""
    shop = workshop(calibrations=("source", "reset"))
    winner = Candidate(shop.ground.space.smallest(), "source")
    compare_calibrations(shop.session, shop.scoring, shop.work, chosen(winner), [])
    line = {**shop.run.read_lines(FILE)[0], **change}
    shop.run.append_line(FILE, line)
    without = {name: value for name, value in line.items() if name not in change}
    with pytest.raises(ResumeError, match=r"calibrations\.jsonl must be a trial; got row 3: "):
        compare_calibrations(shop.session, shop.scoring, shop.work, chosen(winner), [])
    file = shop.run.path / FILE
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:2]))
    shop.run.append_line(FILE, without)
    with pytest.raises(ResumeError, match=r"calibrations\.jsonl must be a trial; got row 3: "):
        calibrations_keep(shop.session, shop.scoring, shop.work, [])


def test_what_failed_in_the_search_is_not_tried_again(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = workshop(calibrations=("source", "mixed"))
    trials = searched(shop)
    winner = Candidate(shop.ground.space.largest(), "source")
    known = replace(best_first(trials)[0], candidate=winner)
    lost = replace(known, candidate=replace(winner, calibration="mixed"), state=FAILED, reason="it was lost.")
    monkeypatch.setattr(ablation, "evaluate_batch", lambda *args, **options: pytest.fail("it failed before"))
    found = compare_calibrations(shop.session, shop.scoring, shop.work, chosen(winner), [known, lost])
    assert found is not None
    assert found["left_out"] == {"mixed": "it was lost."}


@pytest.mark.parametrize("failure", [Failure.TIMEOUT, Failure.LOST_WORKER])
def test_what_failed_for_want_of_time_or_a_worker_is_tried_again_with_more_time(
    workshop: Workshop, failure: Failure
) -> None:
    shop = workshop(calibrations=("source", "mixed"), limit=100.0)
    trials = searched(shop)
    winner = Candidate(shop.ground.space.largest(), "source")
    known = replace(best_first(trials)[0], candidate=winner, seconds=0.0)
    late = replace(
        known,
        candidate=replace(winner, calibration="mixed"),
        state=FAILED,
        failure=failure,
        reason="late",
        seconds=150.0,
    )
    shop.run.append_line(FILE, late.to_cells())
    short = compare_calibrations(shop.session, shop.scoring, shop.work, chosen(winner), [known])
    assert short is not None
    assert short["left_out"]["mixed"].startswith(f"{NO_TIME}: 150.0 s were needed, and ")
    assert len(shop.run.read_lines(FILE)) == 1
    extended = workshop(calibrations=("source", "mixed"), limit=1000.0)
    for _ in range(2):
        found = compare_calibrations(extended.session, shop.scoring, shop.work, chosen(winner), [known])
        assert found is not None
        assert set(found["policies"]) == {"source", "mixed"}
        assert len(extended.run.read_lines(FILE)) == 2, "once more, and no more often"


def test_what_was_chosen_keeps_its_time_and_not_what_was_forecast(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads that take 10 s to fit on every network and the plain one, where two such fits were forecast."""
    shop = workshop(calibrations=("source", "mixed"), limit=1e6)
    trials = searched(shop)
    choices = shop.work.choose(trials, shop.question.limits)
    shop.work.costs = replace(shop.work.costs, fit_seconds=dict.fromkeys(shop.work.costs.fit_seconds, 10.0))
    forecast, needed = shop.work.evaluate_seconds(), shop.work.chosen_seconds(choices)
    assert needed > forecast + 10.0
    winner = replace(choices["winner"].candidate, calibration="source")
    choices = {**choices, "winner": replace(choices["winner"], candidate=winner)}
    needed = shop.work.chosen_seconds(choices)
    known = replace(best_first(trials)[0], candidate=winner, seconds=4.0)
    monkeypatch.setattr(shop.session.ledger, "remaining", lambda: needed + 5.0)
    monkeypatch.setattr(ablation, "evaluate_batch", lambda *args, **options: pytest.fail("the test needs it"))
    found = compare_calibrations(shop.session, shop.scoring, shop.work, choices, [known])
    assert found is not None
    assert found["left_out"] == {"mixed": f"{NO_TIME}: 6.0 s were needed, and 5.0 s there"}


def test_time_is_kept_for_the_policies_that_are_missing_up_to_a_share_of_the_limit(workshop: Workshop) -> None:
    shop = workshop(calibrations=("source", "mixed", "reset"), limit=100.0)
    trials = searched(shop)
    winner = Candidate(shop.ground.space.largest(), "mixed")
    known = replace(best_first(trials)[0], candidate=winner, state=FINISHED, seconds=1.0)
    scored = replace(known, candidate=replace(winner, calibration="reset"))

    def kept(*trials: Any, most: float = 100.0) -> float:
        shop.work.most = Most(0.0, most)
        return calibrations_keep(shop.session, shop.scoring, shop.work, trials)(winner)

    assert kept(known) == pytest.approx(2 * CALIBRATION_MARGIN)
    assert kept(known, scored) == pytest.approx(CALIBRATION_MARGIN)
    assert kept(known, replace(scored, state=FAILED)) == pytest.approx(CALIBRATION_MARGIN)
    late = replace(scored, state=FAILED, failure=Failure.TIMEOUT, seconds=7.0)
    assert kept(known, late) == pytest.approx(CALIBRATION_MARGIN + 7.0)
    assert kept(known, late, most=8.0) == pytest.approx(CALIBRATION_MARGIN)
    assert kept(known, most=1.9 * CALIBRATION_MARGIN) == pytest.approx(CALIBRATION_MARGIN)
    assert kept(known, most=0.9 * CALIBRATION_MARGIN) == 0.0, "none would fit"
    one = workshop(calibrations=("mixed",), limit=100.0)
    assert calibrations_keep(one.session, one.scoring, one.work, [known])(winner) == 0.0
    unlimited = workshop(calibrations=("source", "mixed"))
    assert calibrations_keep(unlimited.session, unlimited.scoring, unlimited.work, [known])(winner) == 0.0


def replace_var(moments: Any, value: float) -> Any:
    return type(moments)(moments.mean_C, moments.var_C * value)
