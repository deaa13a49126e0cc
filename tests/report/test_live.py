"""The picture of a run for a terminal: what it says of runs in every state, at every width."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nasimb.accounts import Charge, Heard
from nasimb.report import Run
from nasimb.report.live import HEIGHTS, Look, alive, improvements, live_view, sparkline, time_left, trials_left
from nasimb.search.trial import CACHED, FAILED, INFEASIBLE, SCREENED, Failure, Trial

NOW = 1_800_000_000.0
OWN = Charge("search", "main", 0, 2)


@pytest.fixture
def finished(finished_run: Path) -> Run:
    return Run.read(finished_run)


def under_way(finished: Run, budget: str = "10trials", **changes: object) -> Run:
    """The run as it was in its search, 100 s in, its owner heard a second ago."""
    account = {Charge("supernet", "main", 0, 2): 60.0, OWN: 40.0}
    values = {
        "result": None, "config": {**finished.config, "budget": budget, "training_steps": None}, "account": account,
        "spent_seconds": {"supernet": 60.0, "search": 40.0}, "heard": {"main": Heard(OWN, NOW - 1.0)},
        "down_seconds": 0.0,
    }  # fmt: skip
    return replace(finished, **{**values, **changes})


def drawn(run: Run, *, width: int = 120, height: int = 40, **look: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    console.print(live_view(Look(run, NOW, **look), width=width, height=height))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def told(lines: Sequence[str], label: str) -> str:
    (found,) = (line.removeprefix(label).strip() for line in lines if line.startswith(label))
    return found


def test_a_finished_run(finished: Run) -> None:
    assert finished.result is not None
    lines = drawn(finished)
    assert lines[0] == "run  finished"
    assert told(lines, "trials") == "6 finished"
    assert "100%" in told(lines, "used")
    assert "left" not in told(lines, "used")
    best = max(finished.trials, key=lambda trial: trial.score or 0.0)
    assert f"{best.score:.4f} held out" in told(lines, "best")
    test = finished.result["winner"]["test"]["balanced_accuracy"]
    assert told(lines, "winner") == f"{test:.4f} balanced accuracy on the test split"
    assert told(lines, "last").startswith("#5 ")
    for phase in finished.spent_seconds:
        assert any(phase in line for line in lines)


def test_a_run_under_way_says_what_is_left(finished: Run) -> None:
    lines = drawn(under_way(finished, "10trials"))
    assert lines[0] == "run  search"
    assert told(lines, "budget") == "10trials, spent 1m40s"
    # 6 of 10 are scored in 40 s, so that 4 take 26.7 s.
    assert told(lines, "trials") == "6 finished, 4 to go"
    assert told(lines, "used").endswith("60%  about 26.7s of search left")
    assert trials_left(under_way(finished, "10trials")) == (0.6, pytest.approx(4 * 40 / 6))


@pytest.mark.parametrize(
    ("budget", "used", "left"),
    [
        ("200s", 0.5, 100.0),  # on the clock
        ("400cpu-s", 0.5, 100.0),  # two threads, each second costs two
        ("1000s,250cpu-s", 0.8, 25.0),  # the limit that is closest to its end
        ("50s", 2.0, 0.0),  # overrun
        ("10trials", None, None),
    ],
)
def test_time_left_is_that_of_the_devices_held(
    finished: Run, budget: str, used: float | None, left: float | None
) -> None:
    assert time_left(under_way(finished, budget), NOW) == (None if used is None else (used, left))


def test_workers_draw_on_the_same_budget(finished: Run) -> None:
    worker, gone = Charge("search", "host-7-ab", 0, 3), Charge("search", "host-8-cd", 0, 50)
    run = under_way(finished, "400cpu-s")
    heard = {**run.heard, "host-7-ab": Heard(worker, NOW - 4), "host-8-cd": Heard(gone, NOW - 60)}
    run = replace(run, heard=heard, account={**run.account, worker: 20.0, gone: 0.4})
    assert alive(run, NOW) == ["host-7-ab"]
    assert alive(run, NOW + 3600) == [], "of a run whose owner is silent nobody is at work"
    assert time_left(run, NOW) == (0.7, pytest.approx(120 / 5))
    lines = drawn(run, waiting=3, running=1)
    assert told(lines, "workers") == "1: host-7-ab"
    assert told(lines, "trials") == "6 finished, 3 waiting, 1 under way"
    assert alive(replace(run, result=finished.result), NOW) == []


def test_bars_are_as_long_as_what_is_spent(finished: Run) -> None:
    lines = drawn(under_way(finished, "200s"))
    # 60 + 40 of 200 s; half of the time is to train the super-network, its bar has 40 characters.
    supernet, search, time = (
        next(line for line in lines[1:] if name in line[:20]) for name in ("supernet", "search", "time")
    )
    assert (supernet.count("█"), search.count("█"), time.count("█")) == (12, 8, 20)
    assert supernet.endswith("30%  1m00s of 1m40s")
    assert search.endswith("20%  40.0s")


def test_a_run_that_nobody_leads_says_how_to_go_on(finished: Run) -> None:
    run = under_way(finished, heard={"main": Heard(OWN, NOW - 3600)})
    assert drawn(run)[0] == "run  not running, last heard 1h00m ago; give the same command again to go on"


def test_a_run_that_has_only_begun(finished: Run) -> None:
    lines = drawn(under_way(finished, trials=[], account={}, spent_seconds={}, heard={}))
    assert lines[0] == "run  has only begun"
    assert told(lines, "trials") == "0 finished, 10 to go"
    assert not any(line.startswith(("best", "last", "so far", "phases")) for line in lines)
    assert "about" not in told(lines, "used")


def test_failures_are_counted_and_shown(finished: Run) -> None:
    first, *others = finished.trials
    states = (FAILED, FAILED, SCREENED, CACHED, INFEASIBLE)
    changed = [replace(trial, state=state, failure=None) for trial, state in zip(others, states, strict=True)]
    changed[0] = replace(changed[0], failure=Failure.OOM, score=None)
    changed[1] = replace(changed[1], failure=Failure.NAN, score=None)
    lines = drawn(under_way(finished, trials=[first, *changed]))
    assert told(lines, "trials") == (
        "1 finished, 1 screened out, 1 repeats at no cost, 1 over a limit, 2 failed, 8 to go"
    )
    assert told(lines, "failed") == "1 oom, 1 nan"
    (row,) = (line for line in lines if "#1 " in line)
    assert "oom: " in row
    assert changed[0].score is None
    nothing = [replace(trial, state=FAILED, failure=Failure.NAN, score=None) for trial in finished.trials]
    assert not any(line.startswith("best") for line in drawn(under_way(finished, trials=nothing)))


def test_improvements_are_those_of_one_measure(finished: Run) -> None:
    def scored(score: float | None, screened: float | None, state: str = "finished") -> Trial:
        return replace(finished.trials[0], score=score, screen_score=screened, state=state)

    plain = [scored(0.5, None), scored(0.4, None), scored(0.9, None, CACHED), scored(0.6, None), scored(0.6, None)]
    assert [score for _, score in improvements(plain)] == [0.5, 0.6]
    screening = [scored(0.9, 0.3), scored(None, 0.2, SCREENED), scored(None, 0.4, SCREENED), scored(None, None, FAILED)]
    assert [score for _, score in improvements(screening)] == [0.3, 0.4]
    assert improvements([]) == []


def test_how_the_best_came_is_shown(finished: Run) -> None:
    trials = [replace(finished.trials[0], number=n, score=s) for n, s in enumerate([0.5, 0.75, 0.6, 0.6, 0.9, 0.1])]
    lines = drawn(under_way(finished, trials=trials))
    assert told(lines, "so far") == "▁▅▅▅██  0.5000 to 0.9000"
    assert told(lines, "improved").startswith("#4     0.9000  +0.1500")
    assert any(line.strip().startswith("#1     0.7500  +0.2500") for line in lines)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300), st.integers(1, 60))
def test_a_sparkline_fits_ends_at_the_end_and_never_falls_where_the_values_do_not(
    values: list[float], width: int
) -> None:
    values.sort()
    line = sparkline(values, width)
    heights = [HEIGHTS.index(mark) for mark in line]
    assert len(line) == min(width, len(values))
    assert heights == sorted(heights)
    if values[-1] > values[-width:][0] and values[0] < values[-1]:
        assert line[-1] == "█"


@pytest.mark.parametrize("width", [1, 8, 20, 40, 80, 300])
@pytest.mark.parametrize("height", [1, 10, 50])
def test_any_terminal_will_do(finished: Run, width: int, height: int) -> None:
    for run in (
        finished,
        under_way(finished, "100s,10trials"),
        under_way(finished, trials=[], spent_seconds={}, heard={}),
    ):
        lines = drawn(run, width=width, height=height)
        assert max(map(len, lines)) <= width
        assert len(lines) == len(drawn(run, width=300, height=height)), "no line is broken into two"


def test_what_a_terminal_would_obey_is_written_out(finished: Run) -> None:
    evil = "\x1b[2Jx[bold]y"
    charge = Charge("search", evil, 0, 1)
    heard = {"main": Heard(OWN, NOW), evil: Heard(charge, NOW)}
    text = "\n".join(drawn(under_way(finished, name=evil, heard=heard)))
    assert "\x1b" not in text
    assert text.startswith(r"\u001b[2Jx[bold]y")
    assert r"1: \u001b[2Jx[bold]y" in text


def test_the_ledger_says_who_was_heard_when(finished_run: Path, tmp_path: Path) -> None:
    from nasimb.accounts import line_of

    folder = shutil.copytree(finished_run, tmp_path / "run")
    last = Run.read(folder).heard["main"]
    worker = Charge("search", "host-1", 1, 4)
    with (folder / "ledger.jsonl").open("a") as file:
        file.write(line_of(worker, 2.0, last.at + 5) + line_of(worker, 2.0, last.at + 7))
    run = Run.read(folder)
    assert run.heard == {"main": last, "host-1": Heard(worker, pytest.approx(last.at + 7))}
    assert run.account[worker] == 4.0
