"""Where the processes of one run meet: any storage of Optuna, behind one address, that may be away for a while.

| address | storage | for |
|---|---|---|
| none | RUN/work.journal, Optuna's journal file | processes on one host |
| postgresql+psycopg://..., mysql+pymysql://..., sqlite:///... | Optuna's RDBStorage | several hosts |
| grpc://host:port | `nasimb storage serve`, Optuna's gRPC proxy | several hosts of which one alone sees the database |
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import event, make_url
from sqlalchemy.exc import SQLAlchemyError

from nasimb import seal
from nasimb.budget import Clock
from nasimb.errors import InputError, NasimbError, ResumeError
from nasimb.rundir import append_whole
from nasimb.secrets import address_without_password, without_password_of

JOURNAL = "work.journal"
EXTRAS = {"psycopg": "postgresql", "psycopg2": "postgresql", "pymysql": "mysql", "grpc": "grpc"}
"""Which of nasimb's extras brings a missing module."""
TIMEOUTS = {
    **dict.fromkeys(("psycopg", "psycopg2"), ("connect_timeout", "tcp_user_timeout")),
    "pymysql": ("connect_timeout", "read_timeout", "write_timeout"),
}
"""What limits the wait for an answer, by driver; an address may set its own."""
WAIT_SECONDS = 10
PATIENCE_SECONDS = 300.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.05, 2.0


class StorageError(NasimbError):
    """The storage could not be reached for longer than anybody waits."""


def open_storage(address: str | None, folder: Path) -> BaseStorage:
    """The storage at an address; None: the journal file of the run folder.

    Raises:
        InputError: no such kind of address, or a package is missing.
        StorageError: it cannot be reached.
    """
    if address is None:
        try:
            return JournalStorage(FlockedJournal(folder / JOURNAL))
        except (ValueError, KeyError) as error:
            raise ResumeError(
                f"{folder / JOURNAL} must be a journal", got=_first_line(error),
                do="Delete it: what its units were is in trials.csv, or is done again.",
            ) from None  # fmt: skip
    kind, _, place = address.partition("://")
    shown = address_without_password(address)
    if not place:
        raise InputError(
            "a storage must be an address",
            got="one without ://",
            do="Write postgresql+psycopg://..., or grpc://host:port.",
        )
    try:
        return _grpc(place, shown) if kind == "grpc" else get_storage(_database(address))
    except ImportError as error:
        extra = EXTRAS.get(str(error.name).partition(".")[0])
        what = f"pip install 'nasimb[{extra}]'" if extra else "Install the driver that the address names"
        raise InputError(f"{kind} needs a package", got=f"no module {error.name}", do=f"{what}.") from None
    except Exception as error:
        if not is_unreachable(error):
            reason = without_password_of(address, _first_line(error))
            raise InputError("the storage must open", got=f"{shown}: {reason}", do="Check the address.") from None
        raise _unreachable(address, error) from None


def _database(address: str) -> RDBStorage:
    if not address.startswith("sqlite"):
        # A connection that the server closed meanwhile is replaced, instead of failing the first request after it.
        return RDBStorage(address, engine_kwargs={"pool_pre_ping": True, "connect_args": _timeouts(address)})
    storage = RDBStorage(address)
    # SQLite has no row locks, on which it rests that a unit is claimed once: every transaction locks the file at once.
    event.listen(storage.engine, "connect", lambda connection, record: setattr(connection, "isolation_level", None))
    event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    storage.engine.dispose()
    return storage


def _timeouts(address: str) -> dict[str, int]:
    """So that a server whose host is gone without a word is away, too, and not waited for by the driver."""
    url = make_url(address)
    seconds = {name: WAIT_SECONDS for name in TIMEOUTS.get(url.get_driver_name(), ())}
    if "tcp_user_timeout" in seconds:
        seconds["tcp_user_timeout"] *= 1000  # libpq's milliseconds
    return {name: value for name, value in seconds.items() if name not in url.query}


def _grpc(place: str, shown: str) -> BaseStorage:
    from optuna.storages import GrpcStorageProxy

    host, _, port = place.strip("/").rpartition(":")
    if not host or not port.isdigit():
        raise InputError("a gRPC storage must be grpc://host:port", got=shown, do="Name host and port.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = GrpcStorageProxy(host=host, port=int(port))
    proxy.wait_server_ready(timeout=10)
    return proxy


class FlockedJournal(JournalFileBackend):
    """Optuna's journal file under a lock that dies with its holder, mended where a killed one tore the last line.

    Optuna's own locks are files, which a killed process leaves behind: everybody waits half a minute for it then.
    Every line has a check as its last key, which Optuna does not look at.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._lock_file = file, FileLock(file.with_name(f".{file.name}.lock"))
        super().__init__(str(file))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add logs, each on a line of its own; all of them are on the disk on return."""
        lines = "".join(_line({**log, seal.KEY: seal.check_of(_line(log).encode())}) + "\n" for log in logs)
        with self._lock_file:
            data_end = self._file.stat().st_size
            with self._file.open("rb+") as file:
                if data_end and file.seek(data_end - 1) is not None and file.read(1) != b"\n":
                    file.truncate(self._file.read_bytes().rfind(b"\n") + 1)
            append_whole(self._file, lines.encode())

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Logs from a number on.

        Raises:
            ResumeError: a line does not say what was written.
        """
        number = log_number_from
        try:
            for log in super().read_logs(log_number_from):
                check = log.pop(seal.KEY, None)
                if check != seal.check_of(_line(log).encode()):
                    raise ValueError
                number += 1
                yield log
        except ValueError:
            raise ResumeError(
                f"{self._file} must say what was written",
                got=f"line {number + 1}, which is damaged",
                do="Delete it: what is under way is scored again.",
            ) from None


def _line(log: dict[str, Any]) -> str:
    return json.dumps(log, separators=(",", ":"))


class Reaching:
    """Calls a storage until it answers: waits, ever longer, while it is away.

    Args:
        address: for messages.
        patience_seconds: after which it gives up.
        between: called before every wait; what it raises ends it.
    """

    def __init__(
        self,
        storage: BaseStorage,
        address: str | None,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Clock = time.monotonic,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self.storage, self.patience_seconds, self.between = storage, patience_seconds, between
        self._address = address
        self._clock = clock

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """The answer of one of the storage's methods.

        Raises:
            StorageError: it was away for too long. Whatever the method raises besides.
        """
        wait, start = FIRST_WAIT_SECONDS, self._clock()
        while True:
            try:
                found = getattr(self.storage, method)(*args, **kwargs)
            except Exception as error:
                if not is_unreachable(error):
                    raise
                if self._clock() - start > self.patience_seconds:
                    raise _unreachable(self._address, error) from None
                self.between()
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)
            else:
                return found


def is_unreachable(error: Exception) -> bool:
    """Whether a storage's exception says that nobody answered, rather than that something was wrong."""
    cause = error.__cause__
    if isinstance(error, StorageInternalError) and isinstance(cause, SQLAlchemyError):
        error = cause  # Optuna says the same of a server that is away and of a table that is not there
    kinds = {kind.__module__.partition(".")[0] + "." + kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, StorageInternalError | ConnectionError | TimeoutError):
        return True
    if kinds & {"sqlalchemy.OperationalError", "sqlalchemy.InterfaceError", "sqlalchemy.TimeoutError"}:
        return True
    if getattr(error, "connection_invalidated", False):
        return True
    code = getattr(error, "code", None)
    if "grpc.RpcError" in kinds and callable(code):
        # The proxy says UNKNOWN where the database behind it is away.
        return getattr(code(), "name", "") in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL"}
    return False


@contextmanager
def short_patience(reaching: Reaching, seconds: float) -> Iterator[None]:
    """Give up sooner, for what is not worth waiting for."""
    before, reaching.patience_seconds = reaching.patience_seconds, min(seconds, reaching.patience_seconds)
    try:
        yield
    finally:
        reaching.patience_seconds = before


def _unreachable(address: str | None, error: Exception) -> StorageError:
    shown = "the journal file" if address is None else address_without_password(address)
    return StorageError(
        "the storage must be reachable",
        got=f"{shown}: {without_password_of(address or '', _first_line(error))}",
        do="Start it again, then give the same command; what is finished is saved.",
    )


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return next(iter(str(cause).splitlines()), type(cause).__name__)
