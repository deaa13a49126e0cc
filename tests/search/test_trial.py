"""Trials on the disk: they come back as they were, and a damaged row is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasimb.errors import ResumeError
from nasimb.rundir import RunDir
from nasimb.search.trial import FAILED, FINISHED, Candidate, Trial, trials_of
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


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"1234", b"many", "'many'"),
        (b"1234", b"", "invalid literal"),
        (b",1-2,", b",1-x,", "'x'"),
        (b"2,finished", b"2,finnished", "'finnished'"),
        (b"0.7666666666666666", b"nan", "score 'nan'"),
        (b"0.7666666666666666", b"0,7", "more cells than columns"),
        (b"cpu", b"\xff\xfe", "no text"),
    ],
)
def test_a_damaged_row_is_named(run: RunDir, old: bytes, new: bytes, told: str) -> None:
    file = run.path / "trials.csv"
    *before, last = file.read_bytes().splitlines(keepends=True)
    assert old in last
    file.write_bytes(b"".join([*before, last.replace(old, new, 1)]))
    with pytest.raises(ResumeError, match=r"trials\.csv must be a trial; got row 3: ") as refused:
        trials_of(run)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
