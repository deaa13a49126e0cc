"""The ablation of calibration policies: figures by hand, rows that are kept, what fails is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nasimb.bench import calibration
from nasimb.bench.base import Conditions
from nasimb.bench.rows import Rows
from nasimb.bench.testbed import load_testbed
from nasimb.errors import Interrupted, NotFiniteError
from nasimb.search.candidate import rank
from nasimb.search.trial import Candidate
from nasimb.supernet.calibrate import CALIBRATIONS

POLICIES = ("source", "mixed", "reset")


def rows_by_hand() -> Rows:
    rows = Rows(None, ("draw", "size", "calibration"), "abc")
    for draw in range(2):
        for number, size in enumerate(("smallest", "largest") if draw else ("largest", "smallest")):
            for policy in POLICIES[:: 1 if draw else -1]:  # pairs are found in any order
                base = 0.5 + 0.1 * (size == "largest") + 0.01 * draw
                gain = {"source": 0.0, "mixed": 0.02 + 0.01 * draw, "reset": -0.3}[policy]
                few = None if policy == "reset" and number == 0 else base / 2 + gain
                rows.append(
                    {"draw": draw, "size": size, "calibration": policy, "test_balanced_accuracy": base + gain,
                     "test_few": few, "held_out_balanced_accuracy": base, "held_out_few": few}
                )  # fmt: skip
    return rows


def test_figures_follow_from_the_rows() -> None:
    found = {figure.figure: figure for figure in calibration.figures(rows_by_hand(), POLICIES, 2)}
    assert list(found) == ["calibration_mixed", "calibration_mixed_few", "calibration_reset", "calibration_reset_few"]
    mixed = found["calibration_mixed"]
    assert (mixed.value, mixed.low, mixed.high) == pytest.approx((2.5, 2.0, 3.0))
    assert (mixed.unit, mixed.repetitions) == ("points", 4)
    assert mixed.detail == {"held_out": pytest.approx(0.0), "draw0": pytest.approx(2.0), "draw1": pytest.approx(3.0)}
    assert found["calibration_mixed_few"].value == pytest.approx(2.5)
    assert found["calibration_reset"].value == pytest.approx(-30.0)
    assert found["calibration_reset_few"].value is None
    assert "2 of 4 pairs" in str(found["calibration_reset_few"].reason)


def test_a_row_says_what_a_search_would_and_what_the_test_does(quick: Callable[..., Conditions]) -> None:
    testbed = load_testbed(quick(), calibrations=tuple(CALIBRATIONS), content=True)
    for policy in CALIBRATIONS:
        candidate = Candidate(testbed.space.largest(), policy)
        row = calibration.measure_policy(testbed, candidate)
        ranking = rank(testbed.scoring, candidate)
        assert row["held_out_balanced_accuracy"] == ranking.metrics.balanced_accuracy
        assert (row["held_out_few"], row["head"]) == (ranking.metrics.few, ranking.head)
        assert 0.0 <= row["test_balanced_accuracy"] <= 1.0


def test_features_that_overflow_have_no_number(
    quick: Callable[..., Conditions], monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(*args: object) -> None:
        raise NotFiniteError("features must be finite", got="infinity", do="Nothing.")

    monkeypatch.setattr(calibration, "features_for_truth", overflowing)
    row = calibration.measure_policy(load_testbed(quick(), content=True), Candidate(None, "source"))  # type: ignore[arg-type]
    assert set(row.values()) == {None}
    assert list(row) == ["head", "test_balanced_accuracy", "test_few", "held_out_balanced_accuracy", "held_out_few"]


def test_an_interrupted_ablation_goes_on_where_it_stopped(quick: Callable[..., Conditions], tmp_path: Path) -> None:
    out, asked = tmp_path / "out", [0]

    def stop() -> int:
        asked[0] += 1
        return 2 if asked[0] == 5 else 0

    with pytest.raises(Interrupted):
        list(calibration.calibration(quick(folder=out, stop=stop)))
    kept = (out / calibration.FILE).read_text()
    assert len(kept.splitlines()) == 1 + 4
    figures = list(calibration.calibration(quick(folder=out)))
    assert (out / calibration.FILE).read_text().startswith(kept)
    assert len((out / calibration.FILE).read_text().splitlines()) == 1 + 3 * len(CALIBRATIONS)
    assert len(figures) == 2 * (len(CALIBRATIONS) - 1)
    assert all(figure.provenance["data"] == "digits" for figure in figures)
