"""Files that are as they were or as they are meant to be: failing writes, full disks that are real ones."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from small_disk import filled, small_disk

from nasimb.durable import append_whole, leftovers, making_folder, replace_whole, replacing
from nasimb.errors import DiskFullError, InputError, NasimbError
from nasimb.nn.tensors import read_tensors, write_tensors
from nasimb.rundir import RunDir


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", mib=1) as folder:
        yield folder


def half(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> None:
    """Every write takes half of what it is given; the second one fails."""
    calls, write = [0], os.write

    def writing(descriptor: int, data: memoryview) -> int:
        calls[0] += 1
        if calls[0] > 1:
            raise OSError(number, os.strerror(number))
        return write(descriptor, data[: max(len(data) // 2, 1)])

    monkeypatch.setattr(os, "write", writing)


@pytest.mark.parametrize("write", [append_whole, replace_whole])
def test_a_write_that_fails_half_way_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]
) -> None:
    file = tmp_path / "rows.csv"
    append_whole(file, b"one\n")
    with monkeypatch.context() as patch:
        half(patch)
        with pytest.raises(DiskFullError, match=r"rows\.csv\. Make space, and give the same command again"):
            write(file, b"two, which is longer\n")
    assert file.read_bytes() == b"one\n"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    append_whole(file, b"two\n")
    assert file.read_bytes() == b"one\ntwo\n"


def test_what_is_no_full_disk_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output") as met:
        append_whole(tmp_path / "a", b"12")
    assert not isinstance(met.value, NasimbError)
    assert (tmp_path / "a").read_bytes() == b""


def test_a_full_disk_is_an_os_error_with_a_sentence_and_exit_code_1() -> None:
    error = DiskFullError("a", got="b", do="C.")
    assert isinstance(error, OSError)
    assert (str(error), error.exit_code) == ("a; got b. C.", 1)


def test_what_stops_the_writer_leaves_no_part(tmp_path: Path) -> None:
    def stopped() -> None:
        with replacing(tmp_path / "a") as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".weights.part").write_text("of a kill")
    (tmp_path / "kept.part").write_text("mine")
    assert [path.name for path in leftovers(tmp_path)] == [".weights.part"]


def test_on_a_full_disk_everything_stays_and_goes_on_once_there_is_space(disk: Path) -> None:
    run = RunDir(disk)
    rows = [{"number": number, "state": "finished"} for number in range(2)]
    tensors = {"a": torch.arange(20_000)}
    run.append_trials(rows)
    run.write_json("probe.json", {"a": 1})
    write_tensors(disk / "w.safetensors", tensors, {"told": "first"})
    before = {path.name: path.read_bytes() for path in disk.iterdir()}
    more = [{"number": number, "state": "failed", "reason": "x" * 300} for number in range(200)]
    with filled(disk):
        for write in (
            lambda: run.append_trials(more),
            lambda: run.write_json("probe.json", {"a": "x" * 10_000}),
            lambda: run.append_line("heads.jsonl", {"a": "x" * 10_000}),
            lambda: write_tensors(disk / "w.safetensors", tensors, {"told": "second"}),
        ):
            with pytest.raises(DiskFullError, match="No space left on device"):
                write()
    after = {path.name: path.read_bytes() for path in disk.iterdir()}
    assert after.pop("heads.jsonl", b"") == b""
    assert after == before
    run.append_trials(more)
    assert len(run.read_trials()) == 202
    write_tensors(disk / "w.safetensors", tensors, {"told": "second"})
    assert read_tensors(disk / "w.safetensors")[1] == {"told": "second"}


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    def ended_half_way() -> None:
        with making_folder(tmp_path / "new") as folder:
            (folder / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ended_half_way()
    assert list(tmp_path.iterdir()) == []
    with making_folder(tmp_path / "new") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text("whole")
        assert not (tmp_path / "new").exists()
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == [
        "new",
        "new/inner",
        "new/inner/a",
    ]
    with pytest.raises(InputError, match="must not be there yet"), making_folder(tmp_path / "new"):
        pass
    assert (tmp_path / "new" / "inner" / "a").read_text() == "whole"


def test_an_empty_folder_that_is_there_is_not_replaced_before_or_after(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="must not be there yet"), making_folder(tmp_path / "mine"):
        pytest.fail("the block must not begin")

    def made_meanwhile() -> None:
        with making_folder(tmp_path / "new"):
            (tmp_path / "new").mkdir()

    with pytest.raises(InputError, match="must not be there yet"):
        made_meanwhile()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "new"]


def test_two_who_make_one_folder_do_not_touch_each_others_work(tmp_path: Path) -> None:
    def second() -> None:
        with making_folder(tmp_path / "new") as first:
            (first / "a").write_text("first")
            with making_folder(tmp_path / "new") as other:
                (other / "a").write_text("second")
            assert (first / "a").read_text() == "first"

    with pytest.raises(InputError, match="must not be there yet"):
        second()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new" / "a").read_text() == "second"
