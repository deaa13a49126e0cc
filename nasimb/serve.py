"""A storage for processes that cannot all reach one disk or database, through Optuna's gRPC proxy."""

from __future__ import annotations

import ipaddress
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage

from nasimb.errors import InputError, WorkError
from nasimb.search.storage import FlockedJournal, open_storage
from nasimb.secrets import address_without_password
from nasimb.session import Stop


def serve_storage(
    address: str | None, file: Path, host: str, port: int, *, say: Callable[[str], None], stop: Stop
) -> None:  # fmt: skip
    """Serve until a signal comes.

    Args:
        address: of a database; None: the journal `file`.
        host: to listen on; anything but loopback is pointed out.

    Raises:
        InputError: the port is taken, or a package is missing. WorkError: the server ended by itself.
    """
    try:
        from optuna.storages import run_grpc_proxy_server
    except ImportError:
        raise InputError("serving needs a package", got="no grpc", do="pip install 'nasimb[grpc]'.") from None
    storage = JournalStorage(FlockedJournal(file)) if address is None else open_storage(address, file.parent)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    failures: list[BaseException] = []

    def run() -> None:
        warnings.simplefilter("ignore", ExperimentalWarning)  # a message for developers; the tests watch the interface
        try:
            run_grpc_proxy_server(storage, host=host, port=port)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="grpc", daemon=True)
    thread.start()
    thread.join(0.5)
    if failures:
        reason = " ".join(str(failures[0]).split())
        raise InputError("the port must be free", got=f"{host}:{port}: {reason}", do="Choose another with --port.")
    behind = file if address is None else address_without_password(address)
    say(f"Serving {behind} at grpc://{host}:{port}; Ctrl-C ends it, nothing is lost.")
    if is_loopback(host):
        say("Only processes on this machine can reach it; from another host, come through an SSH tunnel.")
    else:
        say("Everybody who reaches this address can read and write it: there is no password and no encryption.")
    while not stop() and thread.is_alive():
        time.sleep(0.1)
    if failures:
        raise WorkError("the server must go on", got=" ".join(str(failures[0]).split()), do="Start it again.")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
