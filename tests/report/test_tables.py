"""Tables say what result.json says, in points, with blanks where there is nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nasimb.errors import InputError
from nasimb.report import Run, calibrations, comparison, models, numbers, pareto, spend
from nasimb.report.tables import NAMES, data_notes


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Run:
    return Run.read(finished_run)


@pytest.fixture(scope="module")
def result(finished_run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((finished_run / "result.json").read_text())
    return found


def entries(result: dict[str, Any]) -> dict[str, Any]:
    return {"winner": result["winner"], **result["baselines"]}


def cell(entry: dict[str, Any], metric: str) -> str:
    """As a reader would work it out from result.json."""
    value = entry["test"][metric]
    if value is None:
        return ""
    low, high = entry["test"]["ci95"][metric]
    return f"{value * 100:.1f}" + (f" [{low * 100:.1f}, {high * 100:.1f}]" if low < high else "")


def test_every_model_has_its_row(run: Run, result: dict[str, Any]) -> None:
    table = models(run).set_index("model")
    assert set(table.index) == {NAMES[name] for name in entries(result)}
    assert table.index[0] == "winner"
    for name, entry in entries(result).items():
        row = table.loc[NAMES[name]]
        for metric, column in (("balanced_accuracy", "balanced accuracy"), ("medium", "medium"), ("few", "few")):
            assert row[column] == cell(entry, metric)
        assert row["head"] == entry["head"]
        assert float(row["ms/image"]) == pytest.approx(1000 * entry["cost"]["latency_seconds"], abs=0.006)
    assert "many" not in table.columns, "no class has more than 100 images"


def test_gains_are_the_winners(run: Run, result: dict[str, Any]) -> None:
    table = models(run).set_index("model")
    assert table.loc["winner", "winner gains"] == ""
    for name, entry in result["baselines"].items():
        difference, low, high = entry["winner_gain"]["balanced_accuracy"]
        text = table.loc[NAMES[name], "winner gains"]
        assert text.startswith(f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
        assert ("n.s." in text) is (low <= 0 <= high)
        expected = result["winner"]["test"]["balanced_accuracy"] - entry["test"]["balanced_accuracy"]
        assert difference == pytest.approx(expected)


def changed(run: Run, result: dict[str, Any], **test: Any) -> Run:
    """The run with other test figures of its winner."""
    winner = {**result["winner"], "test": {**result["winner"]["test"], **test}}
    return replace(run, result={**result, "winner": winner})


def test_an_empty_group_is_blank_and_never_zero(run: Run, result: dict[str, Any]) -> None:
    other = changed(run, result, few=None)
    table = models(other).set_index("model")
    assert table.loc["winner", "few"] == ""
    assert table.loc["smallest", "few"] != ""
    row = numbers([other]).iloc[0]
    assert pd.isna(row["few"])
    assert pd.isna(row["many"])
    assert pd.isna(row["many_low"])


def test_zero_is_zero_and_not_blank(run: Run, result: dict[str, Any]) -> None:
    ci95 = {**result["winner"]["test"]["ci95"], "few": [0.0, 0.25]}
    table = models(changed(run, result, few=0.0, ci95=ci95)).set_index("model")
    assert table.loc["winner", "few"] == "0.0 [0.0, 25.0]"


def test_a_missing_baseline_has_no_row(run: Run, result: dict[str, Any]) -> None:
    baselines = {name: entry for name, entry in result["baselines"].items() if name != "random"}
    assert "best of random" not in set(models(replace(run, result={**result, "baselines": baselines}))["model"])


def test_plain_numbers_are_those_of_the_result(run: Run, result: dict[str, Any]) -> None:
    table = numbers([run]).set_index("model")
    for name, entry in entries(result).items():
        assert table.loc[name, "balanced_accuracy"] == entry["test"]["balanced_accuracy"]
        assert table.loc[name, "medium_high"] == entry["test"]["ci95"]["medium"][1]
        assert table.loc[name, "macs"] == entry["cost"]["macs"]
        assert table.loc[name, "params"] == entry["cost"]["params"]


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_the_pareto_set_is_beaten_by_nobody(run: Run, cost: str) -> None:
    chosen = replace(run, config={**run.config, "objective": f"balanced_accuracy,{cost}"})
    shown = set(pareto(chosen)["trial"])
    scored = {trial.number: trial for trial in run.trials if trial.score is not None}
    for number, trial in scored.items():
        beaten = any(
            (other.score or 0) >= (trial.score or 0)
            and getattr(other, cost) <= getattr(trial, cost)
            and ((other.score or 0) > (trial.score or 0) or getattr(other, cost) < getattr(trial, cost))
            for other in scored.values()
        )
        assert (number in shown) is not beaten


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_the_pareto_set_keeps_the_limits(run: Run, cost: str) -> None:
    """The largest subnet is scored as a baseline even where it is over them."""
    best = max(trial.score or 0 for trial in run.trials)
    highest = max(getattr(trial, cost) for trial in run.trials)
    largest = replace(run.trials[0], number=99, kind="largest", score=best + 0.01, **{cost: highest + 1})
    trials = [*run.trials, largest]
    for objective in ("balanced_accuracy", f"balanced_accuracy,{cost}"):
        config = {**run.config, "objective": objective}
        assert 99 in set(pareto(replace(run, trials=trials, config=config))["trial"])
        limited = replace(run, trials=trials, config={**config, f"max_{cost}": highest})
        assert pareto(limited).equals(pareto(replace(run, config=config)))


def test_a_long_pareto_set_is_thinned_but_keeps_its_ends(run: Run) -> None:
    trials = [replace(run.trials[0], number=n, score=n / 100, macs=1000 * (n + 1)) for n in range(50)]
    table = pareto(replace(run, trials=trials), most=5)
    assert len(table) == 5
    assert (table["trial"].iloc[0], table["trial"].iloc[-1]) == (0, 49)


def ablated(run: Run, result: dict[str, Any]) -> Run:
    """The run as if it had searched three policies, one of which there was no time to compare."""
    validation = {"balanced_accuracy": 0.5, "many": None, "medium": 0.6, "few": 0.25}
    better = {"balanced_accuracy": 0.512, "many": None, "medium": 0.6, "few": 0.24}
    zero = dict.fromkeys(validation, 0.0) | {"many": None}
    gain = {"balanced_accuracy": 0.012, "many": None, "medium": 0.0, "few": -0.01}
    policies = {"source": {"validation": validation, "gain": zero}, "mixed": {"validation": better, "gain": gain}}
    found = {"subnet": "x", "base": "source", "policies": policies, "left_out": {"reset": "no time was left"}}
    trials = [
        replace(run.trials[0], number=n, candidate=replace(run.trials[0].candidate, calibration=policy), score=score)
        for n, (policy, score) in enumerate([("source", 0.5), ("mixed", 0.4), ("mixed", 0.45), ("reset", None)])
    ]
    config = {**run.config, "calibrations": ["source", "mixed", "reset"]}
    return replace(run, result={**result, "calibrations": found}, trials=trials, config=config)


def test_calibrations_stand_side_by_side_with_what_they_gain(run: Run, result: dict[str, Any]) -> None:
    table = calibrations(ablated(run, result)).set_index("calibration")
    assert table.loc["mixed"].to_dict() == {
        "balanced accuracy": "51.2", "medium": "60.0", "few": "24.0", "against source": "+1.2",
        "few against it": "-1.0", "trials": 2, "best score": "45.0", "left out": "",
    }  # fmt: skip
    assert table.loc["source", "against source"] == "+0.0"
    assert (table.loc["reset", "left out"], table.loc["reset", "balanced accuracy"]) == ("no time was left", "")
    without = ablated(run, result)
    assert without.result is not None
    for one in without.result["calibrations"]["policies"].values():
        one["gain"] = None
    assert "against source" not in calibrations(without).columns


def test_a_run_of_one_policy_has_no_table_of_them(run: Run, result: dict[str, Any]) -> None:
    assert result["calibrations"] is None
    assert calibrations(run).empty
    old = {key: value for key, value in result.items() if key != "calibrations"}
    assert calibrations(replace(run, result=old)).empty, "a run of an earlier version"


def test_spend_adds_up(run: Run, result: dict[str, Any]) -> None:
    table = spend(run)
    assert table["phase"].iloc[-1] == "in all"
    assert sum(map(float, table["seconds"][:-1])) == pytest.approx(float(table["seconds"].iloc[-1]), abs=0.4)
    assert "of the limit" not in table.columns, "the run had no time limit"
    limited = replace(run, result={**result, "spend": {**result["spend"], "limit_seconds": 1000.0}})
    shares = [float(text.rstrip("%")) for text in spend(limited)["of the limit"]]
    assert shares[-1] == pytest.approx(sum(run.spent_seconds.values()) / 10, abs=0.06)


def test_runs_side_by_side(run: Run, result: dict[str, Any]) -> None:
    table = comparison([run, replace(run, name="other")])
    assert table["run"].tolist() == ["run", "other"]
    assert table["balanced accuracy"].tolist() == 2 * [cell(result["winner"], "balanced_accuracy")]
    assert table["trials"].tolist() == 2 * [str(result["trials"]["finished"])]


def test_screened_trials_are_trials_too(run: Run) -> None:
    first, one = run.trials[:2], run.trials[1]
    screened = [replace(one, number=n, state="screened", score=None, screen_score=0.5) for n in range(2, 1082)]
    failed = replace(one, number=1082, state="failed", score=None, screen_score=0.5, reason="NaN")
    table = comparison([run, replace(run, trials=[*first, *screened, failed])])
    assert table["trials"].tolist()[1] == "1,082 (1,080 screened out)"


def test_an_unfinished_run_has_no_tables(run: Run) -> None:
    unfinished = replace(run, result=None)
    for table in (models, data_notes):
        with pytest.raises(InputError, match=r"no result\.json yet"):
            table(unfinished)
    for table_of_several in (comparison, numbers):
        with pytest.raises(InputError, match=r"no result\.json yet"):
            table_of_several([run, unfinished])
