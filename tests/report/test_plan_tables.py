"""A plan as a reader sees it: shares add up, ranges are round, money only where it has a price."""

from __future__ import annotations

from typing import Any

import pytest

from nasimb.report.plan import devices, phases, print_plan, sentences

SECONDS = {"prepare": 2.0, "supernet": 50.0, "search": 30.0, "head": 12.0, "evaluate": 6.0}


def one(number: int = 1, **changes: Any) -> dict[str, Any]:
    wall = {phase: seconds / (number if phase == "search" else 1) for phase, seconds in SECONDS.items()}
    values = {
        "devices": number,
        "phases": {
            phase: {"wall_seconds": wall[phase], "device_seconds": SECONDS[phase]} for phase in SECONDS
        },
        "wall_seconds": sum(wall.values()),
        "device_seconds": 100.0,
        "unspent_seconds": 0.0,
        "candidates": {"low": 1234, "expected": 2345, "high": 3456},
        "promoted": None,
        "training_steps": 1500,
        "money": None,
    }  # fmt: skip
    return {**values, **changes}


def plan(*plans: dict[str, Any], **changes: Any) -> dict[str, Any]:
    batch = {"small": 0.05, "any": 0.1, "large": 1.5}
    values = {
        "budget": "100cpu-s", "limit_seconds": 100.0, "device": "cpu", "holding": {"gpus": 0, "threads": 2},
        "smallest_budget": "25s", "price": None, "plans": list(plans) or [one()],
        "seconds": {"prepare": 2.0, "training_step": 0.1, "candidate_alone": {"smallest": 0.01, "largest": 2.0},
                    "candidate_in_a_batch": batch, "candidate_screened": None, "head_comparison": {"'gda'": 0.5},
                    "test": 6.0},
    }  # fmt: skip
    return {**values, **changes}


def test_every_phase_has_its_time_and_its_share() -> None:
    table = phases(one()).set_index("phase")
    assert list(table.index) == [*SECONDS, "in all"]
    assert table.loc["search", "time"] == "30.0s"
    assert table.loc["in all", "time"] == "1m40s"
    shares = [float(text.rstrip("%")) for text in table["share"]]
    assert sum(shares[:-1]) == pytest.approx(100, abs=0.2)
    assert shares[-1] == 100
    assert table.loc["search", "buys"] == "1,200 to 3,500 (about 2,300) candidates"
    assert table.loc["supernet", "buys"] == "1,500 training steps"


def test_what_is_left_over_is_a_row_of_its_own() -> None:
    table = phases(one(unspent_seconds=25.0)).set_index("phase")
    assert table.loc["left over", "time"] == "25.0s"
    assert table.loc["left over", "share"] == "20.0%"


def test_trials_that_are_counted_have_no_range() -> None:
    exact = dict.fromkeys(("low", "expected", "high"), 200)
    assert "200 candidates" in set(phases(one(candidates=exact))["buys"])
    single = dict.fromkeys(("low", "expected", "high"), 1)
    assert "1 candidate" in set(phases(one(candidates=single))["buys"])


def test_a_ready_super_network_and_screening_are_told() -> None:
    buys = set(phases(one(training_steps=0, promoted={"low": 8, "expected": 16, "high": 31}))["buys"])
    assert "trained before" in buys
    assert any(text.endswith("; 8 to 31 (about 16) of them see all images") for text in buys)


def test_devices_side_by_side_with_and_without_a_price() -> None:
    table = devices(plan(one(), one(4)))
    assert table["devices"].tolist() == [1, 4]
    assert table["on the clock"].tolist() == ["1m40s", "1m18s"]
    assert not any("costs" in column for column in table.columns)
    priced = devices(plan(one(money=1234.5), one(4, money=1234.5), price="3/h"))
    assert priced["costs at 3/h"].tolist() == ["1,234.50", "1,234.50"]


def test_sentences_say_the_smallest_budget_and_what_units_take() -> None:
    text = "\n".join(sentences(plan()))
    assert "smallest useful budget here: 25s" in text
    assert "smallest 10 ms, largest 2.0 s" in text
    assert "50 ms if small networks win, 100 ms if size does not matter, 1.5 s if large ones win" in text
    assert "torchrun" not in text
    assert "cost" not in text
    more = "\n".join(sentences(plan(one(money=2.0), one(2, money=2.0), price="3/h")))
    assert "cost: 2.00 at 3/h" in more
    assert "torchrun" in more


def test_the_title_says_which_machine(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(plan())
    assert "100cpu-s on this machine (cpu, 2 threads)" in capsys.readouterr().out
    print_plan(plan(one(4), one(8)))
    out = capsys.readouterr().out
    assert "100cpu-s on 4 machines like this one" in out
    assert "More devices of this kind" in out
