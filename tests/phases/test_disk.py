"""What a run will write, against what it writes; a disk without room for it is refused before work starts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_disk import small_disk
from tiny_run import DATA, tiny_config

from nasimb.errors import InputError
from nasimb.phases.disk import LEAST_BYTES, Writing, check_room
from nasimb.pipeline import run_search
from nasimb.space import SearchSpace

PLAN = Writing(
    space=SearchSpace.load("cifar-resnet"), channels=3, classes=100, training=True, images=60_000,
    calibration_bytes=3 * 2**20, trials=None, seconds=8 * 3600.0, trial_seconds=1.0,
)  # fmt: skip


def test_every_part_of_a_run_adds_to_it() -> None:
    needed = PLAN.needed_bytes()
    smaller = (
        replace(PLAN, training=False), replace(PLAN, images=100), replace(PLAN, trials=100),
        replace(PLAN, seconds=3600.0), replace(PLAN, trial_seconds=10.0), replace(PLAN, calibration_bytes=0),
        replace(PLAN, classes=10),
    )  # fmt: skip
    for plan in smaller:
        assert LEAST_BYTES < plan.needed_bytes() < needed
    assert replace(PLAN, trials=None, seconds=None).needed_bytes() < needed
    assert 50 * 2**20 < needed < 2 * 2**30


def test_a_run_writes_no_more_than_was_asked_for(finished_run: Path, tmp_path: Path) -> None:
    asked: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nasimb.afford.check_room", lambda folder, needed: asked.append(needed))
        run_search(tiny_config(tmp_path, budget="14trials"), tmp_path / "run")
    written = sum(file.stat().st_size for file in (tmp_path / "run").rglob("*") if file.is_file())
    assert written <= asked[0] <= written + 2 * LEAST_BYTES


def test_what_is_there_already_is_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=6 * 2**20))
    with pytest.raises(InputError, match=r"got 6\.0 MiB free for .*, of about 8\.0 MiB\. Make space, or"):
        check_room(tmp_path, 8 * 2**20)
    (tmp_path / "weights").write_bytes(bytes(3 * 2**20))
    check_room(tmp_path, 8 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(InputError, match=r"0\.0 MiB free .* of about 1\.0 MiB"):
        check_room(tmp_path, 2**20)


def test_a_disk_without_room_is_refused_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**19))
    with pytest.raises(InputError, match=r"must have room .* 0\.5 MiB free"):
        run_search(tiny_config(tmp_path, data=DATA), tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", mib=1) as folder:
        yield folder


def test_a_small_disk_is_a_disk_without_room(disk: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1\.0 MiB free for .*disk/run"):
        run_search(tiny_config(tmp_path, data=DATA), disk / "run")
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_folder_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path, begun: bool) -> None:
    import subprocess

    with small_disk(tmp_path / "disk", mib=4) as disk:
        config = tiny_config(tmp_path, data=DATA, budget="4trials")
        if begun:
            run_search(config, disk / "run")
            (disk / "run" / "result.json").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(InputError, match=r"the run folder must be writable; got .*Read-only"):
            run_search(config, disk / "run")


def test_a_file_that_cannot_be_written_is_refused_before_work_starts(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    config = tiny_config(tmp_path, budget="4trials")
    run_search(config, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "trials.csv" and access(path, mode))
    with pytest.raises(InputError, match=r"files of a run must be writable; got .*trials\.csv"):
        run_search(config, tmp_path / "run")
