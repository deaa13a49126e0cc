"""Figures hold the numbers they were given, and texts that plotly does not take for markup."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nasimb.report import Run, figures
from nasimb.report.classes import class_table, confusion
from nasimb.report.future import Future, extrapolate, future
from nasimb.report.steps import start, steps
from nasimb.search.trial import best_first, pareto_set
from report.made_split import made_result, made_split

ROLES = {"largest_plain_head": 0.4, "largest": 0.25, "winner": 0.1}


def test_texts_are_escaped_and_controls_are_visible() -> None:
    assert figures.label('<a href="x">&\x1b') == '&lt;a href="x"&gt;&amp;\\u001b'


def test_the_waterfall_ends_where_the_winner_is() -> None:
    split = made_split(**ROLES)
    found = steps(made_result(), split)
    (bars,) = figures.waterfall(start(split), found).data
    ends = bars.base + np.cumsum(bars.x[:-1])
    assert ends[0] == pytest.approx(100 * start(split)["balanced_accuracy"])
    assert ends[-1] == pytest.approx(ends[0] + 100 * found[-1].gains["balanced_accuracy"].difference)
    assert list(bars.measure) == ["absolute", "relative", "relative", "relative", "total"]
    assert "not significant" in bars.y[2], "normalisation changed nothing"


def test_gains_are_hollow_where_they_are_not_significant() -> None:
    split = made_split(images=300, **ROLES)
    found = steps(made_result(), split)
    made = figures.gains(found)
    assert [trace.name for trace in made.data] == ["balanced accuracy", "many-shot", "medium-shot", "few-shot"]
    for trace in made.data:
        assert [symbol.endswith("-open") for symbol in trace.marker.symbol] == [False, True, False, False]


def test_every_scored_candidate_is_shown_once(finished_run: Path) -> None:
    run = Run.read(finished_run)
    made = figures.cost_and_accuracy(run.trials, run.finished_result(), "macs", "balanced_accuracy")
    front = next(trace for trace in made.data if trace.name == "Pareto front")
    points = [trace for trace in made.data if trace.mode == "markers" and "full head" not in trace.name]
    shown = sorted(place for trace in points for place in zip(trace.x, trace.y, strict=True))
    scored = best_first(run.trials)
    expected = sorted((trial.macs, 100 * (trial.score or 0.0)) for trial in scored)
    np.testing.assert_allclose(np.array(shown), np.array(expected), atol=1e-3)
    assert list(front.x) == [trial.macs for trial in pareto_set(scored, "macs")]
    assert made.layout.yaxis.title.text == "balanced accuracy, held out (points)"


def test_models_stand_beside_candidates_only_where_the_same_was_measured(finished_run: Path) -> None:
    run = Run.read(finished_run)
    result = run.finished_result()
    for objective in ("few", "worst_recall"):
        made = figures.cost_and_accuracy(run.trials, result, "macs", objective)
        (winner,) = (trace for trace in made.data if trace.name == "winner, full head")
        measured = result["winner"]["validation"].get(objective)
        assert list(winner.y) == ([] if measured is None else [pytest.approx(100 * measured)])
    assert "worst_recall" not in result["winner"]["validation"]


def test_recalls_and_confusion_are_those_of_the_tables() -> None:
    split = made_split(winner=0.3)
    table = class_table(split)
    made = figures.recall_by_count(table)
    assert [list(trace.x) for trace in made.data] == [[200], [50], [5]]
    assert [trace.y[0] for trace in made.data] == pytest.approx((100 * table["recall"].astype(float)).tolist())
    images_KK = confusion(split)
    (cells,) = figures.confusion_matrix(images_KK, images_KK.sum(1), split.classes).data
    assert np.array_equal(cells.text, confusion(split))
    np.testing.assert_allclose(np.sum(cells.z, axis=1), 100, atol=0.2)
    (cells,) = figures.confusion_matrix(images_KK[1:, 1:], images_KK.sum(1)[1:], split.classes[1:]).data
    np.testing.assert_allclose(np.diag(cells.z), 100 * table["recall"].astype(float)[1:], atol=0.06)


def test_bars_say_what_was_spent_and_what_is_left() -> None:
    (bars,) = figures.spend_bars({"search": 6.0, "evaluate": 1.0}, 3.0).data
    assert dict(zip(bars.y, bars.x, strict=True)) == {"search": 6.0, "evaluate": 1.0, "left over": 3.0}
    (bars,) = figures.spend_bars({"search": 6.0}, None).data
    assert list(bars.y) == ["search"]


def test_the_band_begins_where_the_best_so_far_ends() -> None:
    scores_T = np.random.default_rng(0).beta(20, 5, 100)
    more_M, (low_M, middle_M, high_M), _ = extrapolate(scores_T)
    best_T = np.maximum.accumulate(scores_T)
    found = Future(np.arange(100.0), scores_T, best_T, 99 + more_M, low_M, middle_M, high_M, "")
    traces = {trace.name: trace for trace in figures.best_so_far(found, "few").data}
    assert set(traces) == {"candidates", "best so far", "80 % band", "expected"}
    assert traces["best so far"].x[-1] == traces["80 % band"].x[0] == traces["expected"].x[0]
    assert traces["best so far"].y[-1] == pytest.approx(100 * scores_T.max())
    assert max(traces["80 % band"].y) == pytest.approx(100 * high_M[-1])


def test_a_long_search_is_thinned_and_keeps_every_rise() -> None:
    scores_T = np.random.default_rng(0).beta(20, 5, 50_000)
    best_T, none = np.maximum.accumulate(scores_T), np.empty(0)
    made = figures.best_so_far(Future(np.arange(50_000.0), scores_T, best_T, none, none, none, none, "no band"), "few")
    candidates, line = made.data
    assert len(candidates.x) <= figures.MOST_POINTS
    assert set(line.y) == set((100 * best_T).tolist())
    assert line.x[-1] == 49_999
    assert len(made.to_json()) < 300_000


def test_the_best_so_far_and_importances(finished_run: Path) -> None:
    found = future(Run.read(finished_run).trials)
    made = figures.best_so_far(found, "balanced_accuracy")
    assert [trace.name for trace in made.data] == ["candidates", "best so far"], "too few for a band"
    table = pd.DataFrame({"choice": ["width 1", "taps"], "importance": [0.75, 0.25]})
    (bars,) = figures.importance_bars(table).data
    assert list(bars.x) == [75.0, 25.0]
