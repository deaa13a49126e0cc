"""What a plan promises is what a run does: the same refusals, the same shares, as many candidates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import FakeTime, Listener, StopAfter
from tiny_run import DATA, tiny_config

import nasimb.phases.measure
from nasimb.budget import Budget
from nasimb.errors import BudgetError, InputError, Interrupted
from nasimb.phases.forecast import PHASES
from nasimb.pipeline import run_search, train_supernet
from nasimb.plan import plan_run
from nasimb.price import Price


def timed(tmp_path: Path, budget: str, **options: Any) -> Any:
    return tiny_config(tmp_path, "training.precision=float32", budget=budget, **options)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan may measure as long as the fake machine needs for all of the images."""
    monkeypatch.setattr(nasimb.phases.measure, "PASS_SECONDS", 1e6)
    monkeypatch.setattr(nasimb.phases.measure, "SHORT_SECONDS", 0.0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("budget", "image", "fit"),
    [
        ("100s", 1e-2, 0.02),
        ("100s", 1e-2, 0.4),
        pytest.param("10min", 5e-2, 0.2, marks=pytest.mark.slow),
        pytest.param("2h", 0.5, 3.0, marks=pytest.mark.slow),
    ],
)
def test_a_run_does_what_its_plan_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str, image: float, fit: float
) -> None:
    clock = FakeTime(monkeypatch, step=0.1, image=image, fit=fit)
    config = timed(tmp_path, budget)
    plan = plan_run(config, clock=clock)
    result = run_search(config, tmp_path / "run", clock=clock)
    (one,), spend = plan["plans"], result["spend"]
    assert one["candidates"]["low"] <= result["trials"]["finished"] <= one["candidates"]["high"]
    limit = spend["limit_seconds"]
    for phase in PHASES:
        assert one["phases"][phase]["wall_seconds"] == pytest.approx(spend["by_phase"][phase], abs=0.08 * limit), phase
    assert one["phases"]["supernet"]["wall_seconds"] == pytest.approx(spend["by_phase"]["supernet"], rel=0.02)
    assert plan["limit_seconds"] == limit


@pytest.mark.usefixtures("quick")
def test_trials_take_as_long_as_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch, step=0.1, image=1e-2, fit=0.05)
    config = timed(tmp_path, "40trials")
    (one,) = plan_run(config, clock=clock)["plans"]
    spend = run_search(config, tmp_path / "run", clock=clock)["spend"]
    assert one["candidates"] == {"low": 40, "expected": 40, "high": 40}
    assert one["wall_seconds"] == pytest.approx(spend["spent_seconds"], rel=0.25)
    assert one["phases"]["search"]["wall_seconds"] == pytest.approx(spend["by_phase"]["search"], rel=0.35)
    assert one["unspent_seconds"] is None


@pytest.mark.usefixtures("quick")
def test_a_ready_super_network_is_measured_itself_and_needs_no_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeTime(monkeypatch, step=0.1, image=1e-2, fit=0.02)
    train_supernet(timed(tmp_path, "20s", source=DATA), tmp_path / "ready", clock=clock)
    config = timed(tmp_path, "60s", supernet=str(tmp_path / "ready"), space="")
    plan = plan_run(config, clock=clock)
    (one,) = plan["plans"]
    assert (one["training_steps"], one["phases"]["supernet"]["wall_seconds"]) == (0, 0.0)
    assert plan["seconds"]["training_step"] is None
    trained = plan_run(timed(tmp_path, "60s"), clock=clock)["plans"][0]
    assert one["candidates"]["expected"] > trained["candidates"]["expected"]


def test_a_budget_too_small_is_refused_as_the_run_refuses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch, step=0.2, image=5e-3, fit=0.02)
    said = []
    for ask in (plan_run, lambda config, clock: run_search(config, tmp_path / "run", clock=clock)):
        with pytest.raises(BudgetError, match="Give at least") as refused:
            ask(timed(tmp_path, "4s"), clock=clock)  # type: ignore[operator]
        said.append(str(refused.value))
    assert said[0] == said[1]
    named = said[0].partition("at least ")[2].partition(" ")[0]
    assert plan_run(timed(tmp_path, named), clock=clock)["smallest_budget"] == named
    assert Budget.parse(named).wall_seconds is not None


def test_nothing_is_written_and_the_answer_is_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    config = timed(tmp_path, "5trials")
    before = sorted(tmp_path.rglob("*"))
    watcher = Listener()
    plan = plan_run(config, devices=(1, 4), price=Price.parse("3/h"), watcher=watcher)
    assert sorted(tmp_path.rglob("*")) == before
    assert json.loads(json.dumps(plan, allow_nan=False)) == plan
    assert any("subnets in" in line for line in watcher.lines)
    assert {progress.phase for progress in watcher.shown} == {"plan"}
    one, four = plan["plans"]
    for told in (one, four):
        assert set(told["phases"]) == set(PHASES)
        total = sum(phase["device_seconds"] for phase in told["phases"].values())
        assert told["device_seconds"] == pytest.approx(total)
        assert told["money"] == pytest.approx(3 * total / 3600)
    assert four["wall_seconds"] < one["wall_seconds"]
    assert four["money"] == pytest.approx(one["money"])
    assert set(plan["seconds"]["candidate_alone"]) == {"smallest", "median", "largest"}
    assert all(seconds > 0 for seconds in plan["seconds"]["candidate_alone"].values())


def test_gpu_time_has_no_price_here(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--price 2\.5/h"):
        plan_run(timed(tmp_path, "5trials"), price=Price.parse("2.5/gpu-h"))
    with pytest.raises(BudgetError, match="needs a GPU"):
        plan_run(timed(tmp_path, "1gpu-h"))


def test_what_a_run_would_refuse_a_plan_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="smallest subnet"):
        plan_run(timed(tmp_path, "5trials", max_macs="1K"))


@pytest.mark.parametrize("questions", [0, 2, 5])
def test_a_signal_ends_a_plan_between_two_measurements(tmp_path: Path, questions: int) -> None:
    with pytest.raises(Interrupted) as stopped:
        plan_run(timed(tmp_path, "5trials"), stop=StopAfter(questions))
    assert stopped.value.exit_code == 143
