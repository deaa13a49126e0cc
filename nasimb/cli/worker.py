"""`nasimb worker` and `nasimb storage serve`: more processes for one search."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Annotated

import typer

from nasimb.cli.options import STORAGE_HELP
from nasimb.cli.starting import importing
from nasimb.display import watching


def worker(
    run: Annotated[Path, typer.Argument(help="Run folder of the search; a copy will do, with --storage.")],
    storage: Annotated[
        str | None,
        typer.Option(envvar="NASIMB_STORAGE", help=STORAGE_HELP + ' "-" reads it from standard input.'),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all.")] = None,
    patience: Annotated[
        str, typer.Option(help="Leave when the search has not been heard for so long, e.g. 10min.")
    ] = "1min",
) -> None:
    """Join a search from another process or host: one long-lived process a device.

    It loads the frozen super-network once, scores what the search hands out, and leaves when that is over. What it
    holds its device for is charged to the budget of the run. SIGTERM, SIGUSR1 and Ctrl-C give work under way back.
    """
    with importing():
        import torch

        from nasimb.budget import Budget
        from nasimb.errors import InputError
        from nasimb.worker import run_worker

    seconds = Budget.parse(patience).wall_seconds
    if seconds is None:
        raise InputError("patience is a time on the clock", got=repr(patience), do="Type for example 10min.")
    address, alone = storage, _never
    if storage == "-":
        address, alone = _first_line() or None, _at_end_of_input
    torch.set_num_threads(threads or torch.get_num_threads())
    with watching() as (watcher, stop):
        run_worker(
            run, address=address, device=device, watcher=watcher, stop=stop, patience_seconds=seconds, alone=alone
        )


def serve(
    storage: Annotated[
        str | None,
        typer.Option(
            envvar="NASIMB_STORAGE", help="Database behind it, as SQLAlchemy reads it. Default: the journal of --file."
        ),
    ] = None,
    file: Annotated[Path, typer.Option(help="Journal file that keeps everything.")] = Path("storage.journal"),
    host: Annotated[
        str, typer.Option(help="Address to listen on. Anything but loopback is open to everybody who reaches it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 13000,
) -> None:
    """Serve a storage for searches whose processes cannot all reach one disk or database (--storage grpc://host:port).

    It listens on loopback unless told otherwise: the protocol knows neither passwords nor encryption. From another
    host, come through an SSH tunnel.
    """
    from nasimb.serve import serve_storage

    with watching() as (watcher, stop):
        serve_storage(storage, file, host, port, say=watcher.say, stop=stop)


def _never() -> bool:
    return False


def _first_line() -> str:
    """Of standard input, byte by byte: what `select` is to see later must not sit in a buffer of Python's."""
    found = b""
    while not found.endswith(b"\n") and (byte := os.read(0, 1)):
        found += byte
    return found.decode().strip()


def _at_end_of_input() -> bool:
    """Whether the other end of standard input is closed: whoever started this process is gone."""
    readable, _, _ = select.select([0], [], [], 0)
    return bool(readable) and not os.read(0, 1)
