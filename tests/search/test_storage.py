"""Addresses, secrets, a journal that outlives kills, and storages that are away for a while."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from forked import CONTEXT
from journal_writer import write_for_ever
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage, JournalStorage
from sqlalchemy.exc import DataError, DBAPIError, OperationalError, ProgrammingError

from nasimb.errors import InputError, ResumeError
from nasimb.search.storage import FlockedJournal, Reaching, StorageError, _timeouts, is_unreachable, open_storage


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("somewhere", "must be an address"),
        ("grpc://nohost", "host:port"),
        ("postgresql+psycopg9://me:geheim@db/x", "Check the address"),
        ("nonsense://me:geheim@db/x", "Check the address"),
    ],
)
def test_what_is_no_storage_is_a_sentence_without_the_password(tmp_path: Path, address: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        open_storage(address, tmp_path)
    assert "geheim" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_an_unreachable_database_is_a_sentence_without_the_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StorageError, match="must be reachable") as refused:
        open_storage(f"postgresql+psycopg://me:geheim@/x?host={tmp_path}", tmp_path)
    assert "geheim" not in str(refused.value)


def test_a_killed_writer_holds_nobody_up_and_loses_no_line_of_another(tmp_path: Path) -> None:
    file = tmp_path / "work.journal"
    for turn in range(5):
        size = file.stat().st_size if file.exists() else 0
        process = CONTEXT.Process(target=write_for_ever, args=(file, turn))
        process.start()
        while not file.exists() or file.stat().st_size == size:
            assert process.is_alive()
            time.sleep(0.01)
        time.sleep(0.05)
        process.kill()
        process.join()
        start = time.monotonic()
        FlockedJournal(file).append_logs([{"who": "test", "number": turn}])
        assert time.monotonic() - start < 2
    logs = list(FlockedJournal(file).read_logs(0))
    assert [log["number"] for log in logs if log["who"] == "test"] == list(range(5))
    assert {log["who"] for log in logs} == {"test", *range(5)}


def test_a_torn_line_is_cut_off_before_the_next(tmp_path: Path) -> None:
    file = tmp_path / "work.journal"
    journal = FlockedJournal(file)
    journal.append_logs([{"number": 1}])
    with file.open("a") as torn:
        torn.write('{"number": 2')
    journal.append_logs([{"number": 3}])
    assert [json.loads(line)["number"] for line in file.read_text().splitlines()] == [1, 3]


def test_a_line_that_does_not_say_what_was_written_is_refused(tmp_path: Path) -> None:
    file, rng = tmp_path / "work.journal", random.Random(0)
    logs = [{"op_code": number, "attr": {"answer": {"score": repr(number / 7), "text": "ä\n"}}} for number in range(9)]
    FlockedJournal(file).append_logs(logs)
    whole = file.read_bytes()
    assert list(FlockedJournal(file).read_logs(0)) == logs
    assert list(FlockedJournal(file).read_logs(4)) == logs[4:]
    for _ in range(200):
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        found = []
        try:
            found += FlockedJournal(file).read_logs(0)
        except ResumeError:
            continue
        # A line without an end is one that somebody is writing.
        assert found == logs[: len(found)]
        assert len(found) >= len(logs) - 1
    file.write_bytes(whole.replace(b"0.14285714285714285", b"0.94285714285714285"))
    with pytest.raises(ResumeError, match=r"work\.journal must say what was written; got line 2, .* Delete it"):
        list(FlockedJournal(file).read_logs(0))


def test_the_default_is_the_run_folders_journal(tmp_path: Path) -> None:
    assert isinstance(open_storage(None, tmp_path), JournalStorage)
    assert (tmp_path / "work.journal").exists()


class Away(InMemoryStorage):
    """Answers nothing until it is there again."""

    there = False

    def get_all_studies(self) -> Any:
        if not self.there:
            raise StorageInternalError("server closed the connection to me:geheim@db")
        return super().get_all_studies()


def test_a_storage_that_is_away_is_waited_for() -> None:
    storage = Away()
    reaching = Reaching(storage, None)
    threading.Timer(0.4, lambda: setattr(storage, "there", True)).start()
    assert reaching("get_all_studies") == []


def test_patience_ends_in_a_sentence() -> None:
    reaching = Reaching(Away(), "postgresql://me:geheim@db/x", patience_seconds=0.2)
    with pytest.raises(StorageError, match="postgresql://me:\\*\\*\\*@db/x") as refused:
        reaching("get_all_studies")
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(("kind", "away"), [(OperationalError, True), (ProgrammingError, False), (DataError, False)])
def test_what_is_wrong_for_good_is_not_waited_for(kind: type[DBAPIError], away: bool) -> None:
    """Optuna gives all of them one name."""
    error = StorageInternalError("An exception is raised during the commit")
    error.__cause__ = kind("SELECT 1", {}, Exception("x"))
    assert is_unreachable(error) == away


def test_drivers_do_not_wait_longer_than_asked() -> None:
    assert _timeouts("postgresql+psycopg://me@db/x") == {"connect_timeout": 10, "tcp_user_timeout": 10_000}
    assert _timeouts("postgresql://me@db/x?connect_timeout=3") == {"tcp_user_timeout": 10_000}
    assert _timeouts("mysql+pymysql://me@db/x") == {"connect_timeout": 10, "read_timeout": 10, "write_timeout": 10}
    assert _timeouts("oracle+oracledb://me@db/x") == {}


@pytest.mark.parametrize("address", ["me:geheim@db/x", "postgresql:/me:geheim@db/x", "nothing://me:ge heim@db/x"])
def test_an_address_that_is_none_is_refused_without_its_password(tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError) as refused:
        open_storage(address, tmp_path)
    assert "heim" not in str(refused.value)


def test_a_signal_ends_the_waiting() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Reaching(Away(), None, between=stop)("get_all_studies")
