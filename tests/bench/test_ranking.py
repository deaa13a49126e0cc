"""Cheap scores against the truth: rows that are kept, and figures by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nasimb.bench import ranking
from nasimb.bench.base import Conditions
from nasimb.bench.rows import Rows
from nasimb.bench.testbed import load_testbed
from nasimb.errors import Interrupted
from nasimb.heads import HEADS
from nasimb.search.trial import Candidate


def test_figures_follow_from_the_rows() -> None:
    rows = Rows(None, ("draw", "number", "calibration"), "abc")
    for draw in range(2):
        for number in range(4):
            for calibration in ranking.CALIBRATIONS[:: 1 if number else -1]:  # pairs are found in any order
                test = 0.5 + number / 10 + (calibration == "source") * number / 100
                good = number if draw == 0 or calibration == "source" else -number
                rows.append(
                    {"draw": draw, "number": number, "calibration": calibration, "test": test, "ridge_loo": good / 10,
                     "ridge_test": good / 10 - 0.02, "ridge_holdout": -number / 10, "best_loo": good / 10,
                     "best_holdout": 0.0, "ridge_seconds": 0.5}
                )  # fmt: skip
    found = {figure.figure: figure for figure in ranking.figures(rows, ["ridge"], 2)}
    assert found["tau_ridge_loo"].value == pytest.approx(1.0)
    assert found["tau_ridge_loo_target_natural"].value == pytest.approx(0.0)
    assert found["tau_ridge_loo_target_natural"].detail == {"draw0": pytest.approx(1.0), "draw1": pytest.approx(-1.0)}
    assert found["regret_ridge_loo"].value == pytest.approx(0.0)
    assert found["regret_ridge_holdout"].value == pytest.approx(11.0)
    assert found["regret_ridge_loo_target_natural"].value == pytest.approx(5.0)
    assert found["bias_ridge_loo"].value == pytest.approx(2.0)
    gained = found["source_minus_natural"]
    assert (gained.value, gained.low, gained.high) == pytest.approx((1.5, 0.75, 2.25))
    assert (gained.unit, gained.repetitions, gained.detail["share_above_zero"]) == ("points", 8, 0.75)
    assert found["tau_best_holdout"].value is None
    assert "equal" in str(found["tau_best_holdout"].reason)


def test_a_row_has_every_head_in_every_way(quick: Callable[..., Conditions]) -> None:
    testbed = load_testbed(quick(), content=True)
    heads = [spec() for spec in HEADS.values()]
    row = ranking.measure_candidate(testbed, Candidate(testbed.space.largest(), "source"), heads, quick())
    loo = {name: "oof" if name == "quick_logistic" else "loo" for name in HEADS}
    ways = [f"{name}_{way}" for name in HEADS for way in (loo[name], "test", "holdout")]
    assert set(row) == {"macs", "test", *ways, *(f"{name}_seconds" for name in HEADS), "best_loo", "best_holdout"}
    assert all(0 < row[way] <= 1 for way in ways)
    assert row["best_loo"] == max(row[f"{name}_{loo[name]}"] for name in HEADS)


def test_only_an_exact_leave_one_out_is_called_so(quick: Callable[..., Conditions]) -> None:
    found = {figure.figure: figure for figure in ranking.ranking(quick())}
    assert "out-of-fold" in found["bias_quick_logistic_oof"].against
    assert "leave-one-out" in found["bias_gda_loo"].against
    assert {"tau_quick_logistic_oof", "regret_quick_logistic_oof", "tau_ridge_loo"} <= set(found)
    assert not any("quick_logistic_loo" in name for name in found)
    assert all(figure.provenance["data"] == "digits" for figure in found.values())


def test_an_interrupted_ranking_goes_on_where_it_stopped(
    quick: Callable[..., Conditions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "QUICK_SUBNETS", 2)
    out = tmp_path / "out"
    asked = [0]

    def stop() -> int:
        asked[0] += 1
        return 2 if asked[0] == 3 else 0

    with pytest.raises(Interrupted):
        list(ranking.ranking(quick(folder=out, stop=stop)))
    kept = (out / ranking.FILE).read_text()
    assert len(kept.splitlines()) == 1 + 2
    figures = list(ranking.ranking(quick(folder=out)))
    assert (out / ranking.FILE).read_text().startswith(kept)
    assert len((out / ranking.FILE).read_text().splitlines()) == 1 + 4
    assert [figure.value for figure in figures] == [figure.value for figure in ranking.ranking(quick(folder=out))]
