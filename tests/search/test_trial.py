"""Trials on the disk: they come back as they were, and a damaged row is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nasimb.errors import ResumeError
from nasimb.rundir import RunDir
from nasimb.search.trial import FAILED, FINISHED, Candidate, Failure, Trial, failure_counts, trials_of
from nasimb.space import Subnet

SUBNET = Subnet(resolution=8, depths=(1, 2), widths=(4, 8), kernel_sizes=(3, 5), norms=("bn", "nbn"), taps=2)


def made(number: int) -> Trial:
    state, score, screened = (FAILED, None, None) if number == 1 else (FINISHED, 0.1 + number / 3, number / 7)
    return Trial(
        number=number, state=state, kind="random", candidate=Candidate(SUBNET, "source"), macs=1234, params=567,
        seconds=0.1, device="cpu", seed=3, score=score, screen_score=screened, few=score, tau=score and 0.5,
         reason='a "strange", one' if score is None else None,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path)
    for number in range(3):
        found.append_trials([made(number).to_row()])
    return found


def test_trials_come_back_as_they_were(run: RunDir) -> None:
    assert trials_of(run) == [made(number) for number in range(3)]


def test_no_file_is_no_trial(tmp_path: Path) -> None:
    assert trials_of(RunDir(tmp_path)) == []


DAMAGE = [
    (b"1234", b"many"), (b"1234", b""), (b",1-2,", b",1-x,"), (b"2,finished", b"2,finnished"),
    (b"0.7666666666666666", b"0.7666666666666667"), (b"0.7666666666666666", b"0,7"), (b"cpu", b"\xff\xfe"),
    (b"cpu", b"c\npu"), (b"cpu", b"c\rpu"), (b"cpu", b"c\x0bpu"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), DAMAGE)
def test_a_row_that_does_not_say_what_was_written_is_named(run: RunDir, old: bytes, new: bytes) -> None:
    file = run.path / "trials.csv"
    *before, last = file.read_bytes().splitlines(keepends=True)
    assert old in last
    file.write_bytes(b"".join([*before, last.replace(old, new, 1)]))
    with pytest.raises(ResumeError, match=r"trials\.csv must say what the run wrote; got row 3") as refused:
        trials_of(run)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("macs", "many", "'many'"),
        ("macs", "", "invalid literal"),
        ("depths", "1-x", "'x'"),
        ("state", "finnished", "'finnished'"),
        ("failure", "bored", "'bored'"),
        ("score", "nan", "score 'nan'"),
    ],
)
def test_a_row_of_another_version_is_named(run: RunDir, column: str, value: str, told: str) -> None:
    run.append_trials([{**made(3).to_row(), column: value}])
    with pytest.raises(ResumeError, match=r"trials\.csv must be a trial; got row 4: ") as refused:
        trials_of(run)
    assert told in str(refused.value)


def test_failures_are_counted_by_kind() -> None:
    trials = [replace(made(1), failure=kind) for kind in (Failure.NAN, Failure.OOM, Failure.NAN)]
    again = replace(made(2), failure=Failure.OOM)
    assert failure_counts([*trials, again]) == "1 oom, 2 nan"
    assert failure_counts([made(2), again]) == ""
    assert Trial.from_row({key: "" if value is None else "-".join(map(str, value)) if isinstance(value, tuple | list)
                           else str(value) for key, value in again.to_row().items()}) == again  # fmt: skip
