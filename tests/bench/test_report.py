"""What is shown and kept of figures: JSON and CSV in their forms, failures among them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nasimb.bench import BENCHES, measures
from nasimb.bench.base import Conditions, Figure, Skipped
from nasimb.bench.provenance import provenance
from nasimb.bench.report import run_measures, table, write_csv, write_json
from nasimb.errors import InputError, ResumeError

KEYS = {
    "benchmark", "figure", "value", "against", "unit", "target", "met", "low", "high", "repetitions", "reason",
    "detail", "device", "versions", "commit", "machine", "system", "cpu_count", "threads", "seed", "quick", "clock",
    "data", "supernet",
}  # fmt: skip
FIGURE = Figure("candidate_over_forward", 1.18, "score / forward", at_most=1.25, low=1.1, high=1.2, repetitions=7,
                detail={"score_seconds": 2.0, "subnet": "r8, d1"})  # fmt: skip


def good(conditions: Conditions) -> Iterator[Figure]:
    yield FIGURE


def absent(conditions: Conditions) -> Iterator[Figure]:
    raise Skipped("There is no GPU.")
    yield


def broken(conditions: Conditions) -> Iterator[Figure]:
    yield Figure("half", 1.0, "a / b")
    raise ZeroDivisionError("by\nzero")


def refused(conditions: Conditions) -> Iterator[Figure]:
    raise InputError("the data must exist", got="nothing", do="Check the path.")
    yield


def test_what_fails_or_is_left_out_says_why_and_the_rest_goes_on(quick: Callable[..., Conditions]) -> None:
    some = {"broken": broken, "absent": absent, "good": good}
    found = {figure.figure: figure for figure in run_measures(some, quick(quick=False))}
    assert list(found) == ["half", "broken", "absent", "candidate_over_forward"]
    assert found["candidate_over_forward"] == FIGURE
    assert (found["broken"].value, found["broken"].failed) == (None, True)
    assert found["broken"].reason == "ZeroDivisionError: by zero"
    assert (found["absent"].reason, found["absent"].failed) == ("There is no GPU.", False)
    shown = table(list(found.values())).set_index("figure")
    assert shown.loc["candidate_over_forward", "met"] == "yes"
    assert shown.loc["candidate_over_forward", "quartiles"] == "1.1 .. 1.2"
    assert "ZeroDivisionError" in shown.loc["broken", "what"]
    with pytest.raises(InputError):
        list(run_measures({"refused": refused}, quick()))


def test_quick_figures_are_held_against_nothing(quick: Callable[..., Conditions]) -> None:
    (figure,) = run_measures({"good": good}, quick())
    assert (figure.value, figure.target, figure.met) == (1.18, "", None)


def test_json_has_one_record_a_figure_with_its_provenance(tmp_path: Path, quick: Callable[..., Conditions]) -> None:
    shared = provenance(quick())
    file = tmp_path / "made" / "bench.json"
    write_json(file, {"candidate": [FIGURE], "head": [Figure("x", None, "", reason="why")]}, shared)
    first, second = json.loads(file.read_text())
    assert set(first) == set(second) == KEYS
    assert (first["benchmark"], first["figure"], first["value"]) == ("candidate", "candidate_over_forward", 1.18)
    assert (first["target"], first["met"], first["repetitions"]) == ("<= 1.25", True, 7)
    assert first["versions"]["torch"]
    assert second["value"] is None
    assert str(tmp_path) not in file.read_text()


def test_csv_has_one_row_a_figure_and_versions_in_columns(tmp_path: Path, quick: Callable[..., Conditions]) -> None:
    write_csv(tmp_path, "candidate", [FIGURE, Figure("x", None, "", reason="why")], provenance(quick()))
    with (tmp_path / "candidate.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["value"]) == 1.18
    assert json.loads(first["detail"]) == {"score_seconds": 2.0, "subnet": "r8, d1"}
    assert first["torch_version"]
    assert (second["value"], second["reason"]) == ("", "why")


def rows_of(file: Path) -> dict[str, dict[str, str]]:
    with file.open(newline="") as text:
        return {row["figure"]: row for row in csv.DictReader(text)}


def test_csv_keeps_the_rows_of_figures_that_were_not_measured_now(tmp_path: Path, quick) -> None:
    early, late = provenance(quick()), provenance(quick(clock_name="processor time"))
    write_csv(tmp_path, "x", [Figure("a", 1.0, "one, 'two'\nthree"), Figure("b", 2.0, ""), Figure("c", 3.0, "")], early)
    before = rows_of(tmp_path / "x.csv")
    write_csv(tmp_path, "x", [Figure("b", 5.0, ""), Figure("d", 6.0, "")], late)
    after = rows_of(tmp_path / "x.csv")
    assert list(after) == ["a", "b", "c", "d"]
    assert (after["a"], after["c"]) == (before["a"], before["c"])
    assert {name: row["clock"] for name, row in after.items()} == {
        "a": "wall clock", "b": "processor time", "c": "wall clock", "d": "processor time",
    }  # fmt: skip
    assert float(after["b"]["value"]) == 5.0


def test_csv_forgets_why_a_measurement_gave_nothing_once_it_is_made_again(tmp_path: Path, quick) -> None:
    shared = provenance(quick())
    left_out = [Figure("memory", None, "", reason="why"), Figure("other", None, "", reason="why")]
    write_csv(tmp_path, "x", left_out, shared, measured=["memory", "other"])
    write_csv(tmp_path, "x", [Figure("memory_gib", 1.0, "")], shared, measured=["memory"])
    assert list(rows_of(tmp_path / "x.csv")) == ["other", "memory_gib"]


def test_csv_of_something_else_is_not_replaced(tmp_path: Path, quick) -> None:
    (tmp_path / "x.csv").write_text("my,notes\n")
    with pytest.raises(ResumeError, match="must hold figures; got my,notes"):
        write_csv(tmp_path, "x", [FIGURE], provenance(quick()))
    assert (tmp_path / "x.csv").read_text() == "my,notes\n"


def test_every_name_in_the_table_can_be_loaded() -> None:
    loaded = measures(tuple(BENCHES))
    assert {name: len(some) for name, some in loaded.items()} == {name: len(some) for name, some in BENCHES.items()}
    assert all(callable(measure) for some in loaded.values() for measure in some.values())


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'storage'"):
        measures(("storge",))
    with pytest.raises(InputError, match="Did you mean 'ridge_over_sklearn'"):
        measures(("head",), ("ridge_over_sklern",))
    assert list(measures(("head", "train"), ("ridge_over_sklearn",))) == ["head"]
