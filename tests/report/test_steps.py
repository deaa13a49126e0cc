"""Steps add up, their intervals are those of scipy's bootstrap, and what is not significant is called so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import balanced_accuracy_score

from nasimb.metrics import Difference
from nasimb.report.steps import NORMALISED, is_significant, start, step_table, steps
from report.made_split import made_result, made_split

ROLES = {"largest_plain_head": 0.4, "largest": 0.25, "winner": 0.1}


def result_with_normalised() -> dict[str, Any]:
    result: dict[str, Any] = made_result(winner="nbn")
    result["baselines"][NORMALISED] = result["winner"]
    return result


def test_steps_add_up_to_what_sklearn_says_of_the_ends() -> None:
    split = made_split(**ROLES, **{NORMALISED: 0.2})
    found = steps(result_with_normalised(), split)
    assert [step.name for step in found] == ["reweighting", "normalisation", "search", "all steps"]
    first, last = (
        balanced_accuracy_score(split.labels_N, split.predicted[role]) for role in ("largest_plain_head", "winner")
    )
    assert start(split)["balanced_accuracy"] == pytest.approx(first)
    for metric in ("balanced_accuracy", "many", "medium", "few"):
        assert sum(step.gains[metric].difference for step in found[:-1]) == pytest.approx(
            found[-1].gains[metric].difference
        )
    assert found[-1].gains["balanced_accuracy"].difference == pytest.approx(last - first)


def test_intervals_are_those_of_a_bootstrap_over_paired_images() -> None:
    split = made_split(images=200, **ROLES)
    step = steps(made_result(), split)[0]
    rare = split.labels_N == 2
    right = [
        (split.predicted[role] == split.labels_N)[rare].astype(float) for role in ("largest", "largest_plain_head")
    ]
    ends = bootstrap(
        right, lambda a, b, axis: a.mean(axis) - b.mean(axis), paired=True, vectorized=True, n_resamples=4000,
        method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert step.gains["few"].low == pytest.approx(ends.low, abs=0.011)
    assert step.gains["few"].high == pytest.approx(ends.high, abs=0.011)


def test_the_same_norms_change_nothing_and_other_ones_cannot_be_told_apart() -> None:
    split = made_split(**ROLES)
    alike = steps(made_result(), split)
    assert alike[1].name == "normalisation"
    assert alike[1].gains["balanced_accuracy"] == Difference(0.0, 0.0, 0.0)
    assert not is_significant(alike[1].gains["balanced_accuracy"])
    apart = steps(made_result(winner="nbn"), split)
    assert [step.name for step in apart] == ["reweighting", "normalisation and search", "all steps"]
    assert "cannot be told apart" in apart[1].note


def test_a_run_without_its_largest_subnet_has_no_steps() -> None:
    assert steps(made_result(), made_split(winner=0.1)) == []
    assert list(step_table([]).columns)[:3] == ["step", "from", "to"]


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.0, 0.2, False), (-0.1, 0.0, False), (0.01, 0.2, True), (-0.2, -0.01, True)]
)
def test_an_interval_that_holds_zero_is_not_significant(low: float, high: float, expected: bool) -> None:
    assert is_significant(Difference(0.1, low, high)) is expected


def test_the_table_has_a_row_a_step_and_metric() -> None:
    found = steps(made_result(), made_split(**ROLES))
    table = step_table(found)
    assert len(table) == len(found) * 4
    row = table[(table["step"] == "all steps") & (table["metric"] == "balanced_accuracy")].iloc[0]
    assert row["gain"] == found[-1].gains["balanced_accuracy"].difference
    assert row["significant"] == (row["low"] > 0 or row["high"] < 0)
