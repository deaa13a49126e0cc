"""Units are claimed once and end once, on every storage."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nasimb.search.queue import OPEN, Beat, Owner, WorkQueue
from nasimb.search.storage import Reaching, open_storage

Connect = Callable[[], WorkQueue]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real `nasimb storage serve`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path_factory.mktemp("served") / "storage.journal"
    command = [sys.executable, "-m", "nasimb", "storage", "serve", "--file", str(file), "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = "".join(process.stderr.readline() for _ in range(2))
    assert f"grpc://127.0.0.1:{port}" in said
    assert "Only processes on this machine" in said
    yield f"grpc://127.0.0.1:{port}"
    process.terminate()
    assert process.wait(10) == 0


@pytest.fixture(params=["memory", "journal", "sqlite", "postgresql", "grpc"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Connect:
    """Makes one more connection to one queue."""
    name = f"{request.node.name}-{tmp_path}"
    if request.param == "memory":
        storage = InMemoryStorage()
        return lambda: WorkQueue(Reaching(storage, None), name)
    addresses: dict[str, Callable[[], str | None]] = {
        "journal": lambda: None,
        "sqlite": lambda: f"sqlite:///{tmp_path / 'work.db'}",
        "postgresql": lambda: str(request.getfixturevalue("postgres").address),
        "grpc": lambda: str(request.getfixturevalue("served")),
    }
    address = addresses[request.param]()
    return lambda: WorkQueue(Reaching(open_storage(address, tmp_path), address), name)


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
