"""The ledger, on a clock that tests drive, and its files under damage."""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasimb.accounts import Charge, examine
from nasimb.budget import NOTHING, Budget, Holding
from nasimb.errors import ResumeError
from nasimb.ledger import Ledger, clock_seconds, kind_seconds, read_account


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def by_phase(path: Path) -> dict[str, float]:
    return clock_seconds(read_account(path))


def test_eight_gpu_hours_in_microseconds() -> None:
    clock = FakeClock()
    ledger = Ledger(None, clock, Budget.parse("8gpu-h"), Holding(1, 8))
    for phase, hours in (("supernet", 4), ("search", 3), ("head", 1)):
        with ledger.phase(phase):
            for _ in range(60):
                clock.now += hours * 60
                ledger.beat()
    assert ledger.by_phase() == pytest.approx({"supernet": 4 * 3600, "search": 3 * 3600, "head": 3600})
    assert ledger.remaining() == pytest.approx(0.0)


def test_time_between_phases_is_charged_to_the_next() -> None:
    clock = FakeClock()
    ledger = Ledger(None, clock, Budget.parse("100s"))
    clock.now += 1000  # before the first phase, nothing is held
    with ledger.phase("supernet"):
        clock.now += 5
    clock.now += 3
    assert ledger.spent() == 5
    with ledger.phase("search"):
        assert ledger.remaining() == 92
        clock.now += 1
    assert ledger.by_phase() == pytest.approx({"supernet": 5, "search": 4})
    clock.now += 1000  # nor after the last
    assert ledger.spent() == 9


def test_a_process_pays_from_when_it_began(tmp_path: Path) -> None:
    clock = FakeClock()
    for process in range(1, 3):
        begun = clock.now
        clock.now += 4  # until torch is there
        ledger = Ledger(tmp_path / "ledger.jsonl", clock, Budget.parse("100s"), begun=begun)
        with ledger.phase("prepare"):
            clock.now += 1
        assert ledger.spent("prepare") == ledger.spent() == 5 * process
        clock.now += 1000  # downtime


def test_running_time_counts_before_it_is_written() -> None:
    clock = FakeClock()
    ledger = Ledger(None, clock, Budget.parse("10s"))
    with ledger.phase("search"):
        clock.now += 4
        assert ledger.spent("search") == 4
        assert ledger.spent("head") == 0
        assert ledger.remaining() == 6
        assert ledger.by_phase() == {"search": 4}


def test_a_kill_loses_at_most_one_beat_and_downtime_is_not_charged(tmp_path: Path) -> None:
    path, clock = tmp_path / "ledger.jsonl", FakeClock()
    ledger = Ledger(path, clock, Budget.parse("100s"), beat_seconds=1.0)
    with suppress(KeyboardInterrupt), ledger.phase("search"):
        for _ in range(30):
            clock.now += 0.25
            ledger.beat()
        on_disk = sum(by_phase(path).values())
        assert ledger.spent() - on_disk <= 1.0
        raise KeyboardInterrupt
    clock.now += 10_000
    again = Ledger(path, clock, Budget.parse("100s"))
    assert again.spent() == pytest.approx(7.5, abs=1e-5)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0, 1e4)), max_size=30))
def test_the_phases_always_add_up_to_the_time_that_passed(charges: list[tuple[str, float]]) -> None:
    clock = FakeClock()
    ledger = Ledger(None, clock)
    for phase, seconds in charges:
        with ledger.phase(phase):
            clock.now += seconds
    assert sum(ledger.by_phase().values()) == pytest.approx(sum(s for _, s in charges), abs=1e-6)
    assert ledger.spent() == pytest.approx(clock.now - 1000.0, abs=1e-6)


def test_every_line_is_one_charge(tmp_path: Path) -> None:
    clock = FakeClock()
    ledger = Ledger(tmp_path / "ledger.jsonl", clock)
    with ledger.phase("search"):
        clock.now += 1.5
        ledger.beat()
        clock.now += 0.5
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    named = {"phase": "search", "worker": "main", "gpus": 0, "threads": 1}
    for line, seconds in zip(lines, (1.5, 0.5), strict=True):
        check = line.pop("check")
        assert check == f"{crc32(json.dumps(line).encode()):08x}"
        assert abs(line.pop("at") - time.time()) < 60
        assert line == {**named, "seconds": seconds}


def test_a_thread_beats_through_a_long_unit_of_work(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, time.monotonic, beat_seconds=0.02)
    with ledger.beating(), ledger.phase("head"):
        time.sleep(0.3)
        on_disk = sum(by_phase(path).values())
        assert on_disk >= 0.15
        assert on_disk <= ledger.spent()
    assert sum(by_phase(path).values()) == pytest.approx(ledger.spent(), abs=1e-4)


def made(path: Path, beats: int = 8) -> Ledger:
    """A ledger of whole seconds: 2 a beat of the owner, 1 of a worker with a GPU."""
    clock = FakeClock()
    ledger = Ledger(path, clock, Budget.parse("1000s,1000gpu-s"), Holding(1, 2))
    for beat in range(beats):
        with ledger.phase(("supernet", "search")[beat % 2]):
            clock.now += 2
            ledger.beat()
            ledger.charge("search", [("w1", Holding(1, 4), 1.0)])
    return ledger


def test_seconds_of_every_kind(tmp_path: Path) -> None:
    ledger = made(tmp_path / "ledger.jsonl")
    assert ledger.spent() == 16
    assert ledger.spent_of("wall") == 16
    assert ledger.spent_of("gpu") == 16 + 8
    assert ledger.spent_of("cpu") == 2 * 16 + 4 * 8
    assert ledger.charged("w1") == 8
    account = read_account(tmp_path / "ledger.jsonl")
    assert account[Charge("search", "w1", 1, 4)] == 8
    assert kind_seconds(account, "gpu") == 24
    assert ledger.remaining() == 1000 - 24  # of the GPU time, which is the scarcer
    assert ledger.remaining(Holding(3, 0)) == (1000 - 24) / 4
    assert ledger.remaining(Holding(3, 0), keep_seconds=76) == (1000 - 24 - 76) / 4
    assert ledger.used_seconds() == 24


def test_an_owner_that_only_waits_holds_no_device() -> None:
    clock = FakeClock()
    ledger = Ledger(None, clock, Budget.parse("100s,50cpu-s"), Holding(0, 2))
    with ledger.phase("search", NOTHING):
        clock.now += 30
        assert ledger.remaining() == 70  # the clock runs, and nothing else
        assert ledger.remaining(Holding(0, 5)) == 10
    assert ledger.spent_of("cpu") == 0
    assert ledger.spent_of("wall") == 30


def test_what_is_granted_is_nobody_elses() -> None:
    ledger = Ledger(None, FakeClock(), Budget.parse("100gpu-s"), Holding(1, 1))
    assert ledger.grant("a", Holding(2, 1), 20.0) == 20
    assert ledger.grant("b", Holding(1, 1), 100.0, keep_seconds=10) == 50  # 100 - 2 x 20 - 10
    assert ledger.grant("c", Holding(1, 1), 100.0, keep_seconds=10) == 0
    ledger.charge("search", [("a", Holding(2, 1), 15.0)])
    assert ledger.grant("a", Holding(2, 1), 20.0, keep_seconds=10) == 20  # nothing is left beyond the first grant
    ledger.release("b")
    assert ledger.grant("a", Holding(2, 1), 20.0, keep_seconds=10) == 35


grants = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 3), st.floats(0, 40), st.floats(0, 1)), max_size=40)


@given(grants, st.floats(0, 20))
def test_whatever_is_granted_and_used_the_sum_stays_within_the_budget(
    steps: list[tuple[str, int, float, float]], keep: float
) -> None:
    gpus = dict(zip("abcd", (1, 2, 3, 4), strict=True))
    ledger = Ledger(None, FakeClock(), Budget.parse("100gpu-s"), Holding(1, 1))
    for worker, _, seconds, share in steps:
        granted = ledger.grant(worker, Holding(gpus[worker], 1), seconds, keep_seconds=keep)
        ledger.charge("search", [(worker, Holding(gpus[worker], 1), share * (granted - ledger.charged(worker)))])
    assert ledger.spent_of("gpu") <= 100 - keep + 1e-6


def test_a_torn_last_line_is_dropped_with_a_warning_and_the_next_begins_a_line(tmp_path: Path) -> None:
    path, said = tmp_path / "ledger.jsonl", []
    made(path)
    with path.open("a") as file:
        file.write('{"phase": "sea')
    assert sum(by_phase(path).values()) == 16
    clock = FakeClock()
    ledger = Ledger(path, clock, warn=said.append)
    with ledger.phase("head"):
        clock.now += 3
    assert "torn" in said[0]
    assert by_phase(path) == {"supernet": 8, "search": 8, "head": 3}


def test_a_damaged_line_without_a_mark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    made(path)
    path.write_bytes(path.read_bytes().replace(b'"seconds": 2.0', b'"seconds": 1.0', 1))
    (tmp_path / "ledger.mark").unlink()
    with pytest.raises(ResumeError, match="line 1"):
        Ledger(path, FakeClock())


@pytest.mark.parametrize("victim", ["ledger.jsonl", "ledger.mark"])
@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_file_is_restored_to_the_second_with_a_warning(tmp_path: Path, victim: str, damage: str) -> None:
    draw = random.Random(7)
    (tmp_path / "whole").mkdir()
    whole = made(tmp_path / "whole" / "ledger.jsonl").account()
    for case in range(100):
        folder = tmp_path / str(case)
        folder.mkdir()
        for name in ("ledger.jsonl", "ledger.mark"):
            (folder / name).write_bytes((tmp_path / "whole" / name).read_bytes())
        data = bytearray((folder / victim).read_bytes())
        if damage == "truncate":
            lines = [place for place, byte in enumerate(data) if byte == ord("\n")][:-1]
            at = draw.choice(lines) + 1 if lines and case % 3 == 0 else draw.randrange(len(data))
            del data[at:]
        else:
            for _ in range(draw.randint(1, 3)):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (folder / victim).write_bytes(data)
        said: list[str] = []
        ledger = Ledger(folder / "ledger.jsonl", FakeClock(), warn=said.append)
        assert ledger.account() == whole
        assert said
        assert examine(folder / "ledger.jsonl").repaired is None  # mended on the disk too


def test_a_lost_file_is_restored_from_its_mark(tmp_path: Path) -> None:
    clock, said = FakeClock(), []
    ledger = Ledger(tmp_path / "ledger.jsonl", clock)
    with ledger.phase("search"):
        clock.now += 7
    (tmp_path / "ledger.jsonl").unlink()
    assert sum(read_account(tmp_path / "ledger.jsonl").values()) == 7
    again = Ledger(tmp_path / "ledger.jsonl", clock, warn=said.append)
    assert again.spent() == 7
    assert "0 of 1 lines are left; the account is restored from ledger.mark" in said[0]
    assert Ledger(tmp_path / "ledger.jsonl", clock).spent() == 7


def test_a_line_that_the_mark_does_not_know_yet_counts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = made(path)
    before = (tmp_path / "ledger.mark").read_bytes()
    ledger.charge("search", [("w1", Holding(1, 4), 5.0)])
    (tmp_path / "ledger.mark").write_bytes(before)  # killed between the line and the mark
    said: list[str] = []
    assert Ledger(path, FakeClock(), warn=said.append).charged("w1") == 13
    assert not said


def test_a_full_disk_leaves_the_file_whole_and_the_time_is_charged_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "ledger.jsonl", FakeClock()
    ledger = Ledger(path, clock)
    with ledger.phase("search"):
        clock.now += 2
        ledger.beat()
        clock.now += 3
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space"):
                ledger.beat()
        assert by_phase(path) == {"search": 2}
        ledger.beat()
    assert by_phase(path) == {"search": 5}


def test_downtime_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, clock = tmp_path / "ledger.jsonl", FakeClock()
    now = [1_700_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    for _ in range(3):
        ledger = Ledger(path, clock)
        with ledger.phase("search"):
            clock.now += 5
            now[0] += 5
        now[0] += 100

    def down() -> float:
        return examine(path).down_seconds

    assert down() == pytest.approx(200)
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second.replace(b"search", b"sEarch") + third)
    assert down() == pytest.approx(200), "a damaged line is no downtime"
    mended = Ledger(path, clock)
    assert mended.spent() == 15
    with mended.phase("search"):
        clock.now += 5
        now[0] += 5
    assert down() == pytest.approx(300), "nor does a repair hide what was before and comes after it"
