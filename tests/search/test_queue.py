"""Units are claimed once and end once, on every storage."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nasimb.search.queue import OPEN, Beat, Owner, WorkQueue
from nasimb.search.storage import Reaching, open_storage

Connect = Callable[[], WorkQueue]


@pytest.fixture(params=["memory", "journal", "sqlite"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Connect:
    """Makes one more connection to one queue."""
    if request.param == "memory":
        storage = InMemoryStorage()
        return lambda: WorkQueue(Reaching(storage, None), "run")
    address = None if request.param == "journal" else f"sqlite:///{tmp_path / 'work.db'}"
    return lambda: WorkQueue(Reaching(open_storage(address, tmp_path), address), "run")


def test_a_unit_goes_there_and_back(connect: Connect) -> None:
    owner, worker = connect(), connect()
    key = owner.put({"task": "score", "numbers": [1, 2]})
    assert list(owner.found(frozenset({key}))) == []
    unit = worker.claim("w1")
    assert unit is not None
    assert unit.work == {"task": "score", "numbers": [1, 2]}
    assert worker.claim("w1") is None
    (claimed,) = owner.found(frozenset({key}))
    assert (claimed.worker, claimed.state) == ("w1", TrialState.RUNNING)
    assert worker.answer(unit, {"rows": [{"a": "1"}]})
    (ended,) = owner.found(frozenset({key}))
    assert ended.answer == {"rows": [{"a": "1"}]}
    assert ended.state == TrialState.COMPLETE


def test_an_answer_that_comes_too_late_does_not_count(connect: Connect) -> None:
    owner, worker = connect(), connect()
    key = owner.put({})
    unit = worker.claim("w1")
    assert unit is not None
    assert owner.take_back(key)
    assert not worker.answer(unit, {"rows": []})
    (ended,) = owner.found(frozenset({key}))
    assert (ended.state, ended.answer) == (TrialState.FAIL, None)


def test_an_answer_that_was_there_first_is_not_taken_back(connect: Connect) -> None:
    owner, worker = connect(), connect()
    key = owner.put({})
    unit = worker.claim("w1")
    assert unit is not None
    assert worker.answer(unit, {"rows": [1]})
    assert not owner.take_back(key)
    assert worker.answer(unit, {"rows": [1]})  # said twice, because the storage was away in between


def test_an_answer_of_a_worker_killed_before_it_could_end_the_unit_counts(connect: Connect) -> None:
    owner, worker = connect(), connect()
    key = owner.put({})
    assert worker.claim("w1") is not None
    worker.reaching("set_trial_system_attr", key, "answer", {"rows": [1]})
    assert not owner.take_back(key)
    (ended,) = owner.found(frozenset({key}))
    assert ended.answer == {"rows": [1]}


def test_many_workers_never_claim_the_same(connect: Connect) -> None:
    owner = connect()
    keys = {owner.put({"number": number}) for number in range(24)}
    ready = threading.Barrier(4)

    def work(name: str) -> list[int]:
        mine = connect()
        ready.wait()
        found = []
        while (unit := mine.claim(name)) is not None:
            assert mine.answer(unit, {"by": name})
            found.append(unit.key)
        return found

    with ThreadPoolExecutor(4) as pool:
        claimed = list(pool.map(work, "abcd"))
    assert sorted(key for some in claimed for key in some) == sorted(keys)
    by = {unit.key: unit.answer for unit in owner.units()}
    assert all(by[key] == {"by": name} for name, some in zip("abcd", claimed, strict=True) for key in some)


def test_what_each_says_of_itself_the_other_reads(connect: Connect) -> None:
    owner, worker = connect(), connect()
    assert worker.owner() == Owner()
    assert owner.beats() == {}
    said = Owner(3, OPEN, {"w1": 12.5, "w2": None})
    owner.announce(said)
    assert worker.owner() == said
    beats = {"w1": Beat(1, 0.5, 0, 2, "host:1"), "w2": Beat(7, 3.0, 1, 1, "host:2", left=True)}
    for name, beat in beats.items():
        worker.beat(name, beat)
    assert owner.beats() == beats
