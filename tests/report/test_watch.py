"""Looking at a run again and again: when, until when, and what becomes of folders that change meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nasimb.errors import InputError, ResumeError, WorkError
from nasimb.report import Run
from nasimb.report.live import Look
from nasimb.report.watch import blocks, checked_seconds, looker, outstanding, watch
from nasimb.search.queue import WorkQueue
from nasimb.search.storage import JOURNAL, Reaching, open_storage


class Hands:
    """A clock that only sleeping and looking move."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def folder(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


def looks(run: Run, number: int, hands: Hands, seconds: float = 0.0) -> Callable[[], Look]:
    """So many looks at a run under way, each of which takes some time, and one at the finished run."""
    left = [replace(run, result=None)] * number + [run]

    def look() -> Look:
        hands.now += seconds
        return Look(left.pop(0), hands.now)

    return look


def test_it_looks_in_time_and_ends_with_the_run(finished_run: Path) -> None:
    hands, shown = Hands(), list[Look]()
    look = looks(Run.read(finished_run), 3, hands)
    ended = watch(look, shown.append, every_seconds=5, clock=hands.clock, sleep=hands.sleep, stop=int)
    assert ended == 0
    assert [one.run.is_finished for one in shown] == [False, False, False, True]
    assert [one.now for one in shown] == pytest.approx([0, 5, 10, 15])


def test_a_long_look_is_followed_by_a_longer_pause(finished_run: Path) -> None:
    hands, shown = Hands(), list[Look]()
    look = looks(Run.read(finished_run), 3, hands, seconds=2.0)
    watch(look, shown.append, every_seconds=5, clock=hands.clock, sleep=hands.sleep, stop=int)
    assert [one.now for one in shown] == pytest.approx([2, 22, 42, 62])


def test_a_signal_ends_it_within_a_moment(finished_run: Path) -> None:
    hands, shown = Hands(), list[Look]()
    look = looks(Run.read(finished_run), 9, hands)
    ended = watch(
        look, shown.append, every_seconds=60, clock=hands.clock, sleep=hands.sleep, stop=lambda: 2 * (hands.now > 61)
    )
    assert ended == 2
    assert len(shown) == 2
    assert hands.now < 61.5


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_pause_is_a_number_of_seconds(seconds: float) -> None:
    with pytest.raises(InputError, match="more than 0"):
        checked_seconds(seconds)


def test_a_folder_that_is_no_run_is_refused_at_once(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "not yet"):
        with pytest.raises(InputError, match=r"config\.yaml"):
            looker(folder, now=float, sleep=lambda seconds: None)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_removed_ends_it_with_a_sentence(folder: Path) -> None:
    look = looker(folder, now=float, sleep=lambda seconds: None)
    assert look().run.is_finished
    shutil.rmtree(folder)
    with pytest.raises(WorkError, match="which was removed"):
        look()


def test_a_run_half_of_which_is_removed_is_waited_for(folder: Path) -> None:
    look = looker(folder, now=float, sleep=lambda seconds: shutil.rmtree(folder))
    (folder / "trials.csv").unlink()
    with pytest.raises(WorkError, match="which was removed"):
        look()


def test_what_is_half_written_is_read_again(folder: Path) -> None:
    whole = (folder / "result.json").read_bytes()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            (folder / "result.json").write_bytes(whole)

    look = looker(folder, now=float, sleep=sleep)
    (folder / "result.json").write_bytes(whole[:100])
    assert look().run.result is not None
    assert len(slept) == 2


def test_what_stays_damaged_is_refused(folder: Path) -> None:
    slept: list[float] = []
    look = looker(folder, now=float, sleep=slept.append)
    (folder / "result.json").write_text("{")
    with pytest.raises(ResumeError, match=r"result\.json"):
        look()
    assert 0.5 <= sum(slept) <= 2


def test_looking_writes_nothing(folder: Path) -> None:
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    look = looker(folder, now=float, sleep=lambda seconds: None)
    look()
    outstanding(folder)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_what_workers_have_before_them_is_read_from_the_journal_of_the_run(folder: Path) -> None:
    from nasimb.phases.sharing import name_of_study
    from nasimb.rundir import RunDir

    assert outstanding(folder) == (None, None)
    queue = WorkQueue(Reaching(open_storage(None, folder), None), name_of_study(RunDir(folder)))
    for number in range(5):
        queue.put({"number": number})
    for _ in range(2):
        unit = queue.claim("host-1")
        assert unit is not None
    assert queue.answer(unit, {"score": 0.5})
    before = {file: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    assert outstanding(folder) == (3, 1)
    assert {file: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before
    assert (folder / JOURNAL).exists()


def test_without_a_terminal_there_is_a_block_a_change(finished_run: Path) -> None:
    run, told = Run.read(finished_run), list[str]()
    begun = replace(run, result=None, trials=run.trials[:2])
    later = replace(begun, spent_seconds={name: 2 * seconds for name, seconds in run.spent_seconds.items()})
    show = blocks(told.append)
    for one in (begun, begun, later, replace(later, trials=run.trials), run, run):
        show(Look(one, 0.0))
    assert len(told) == 3
    assert "2 finished" in told[0]
    assert "6 finished" in told[1]
    assert told[2].startswith("run: finished")
