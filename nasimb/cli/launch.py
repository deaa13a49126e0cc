"""Whether torchrun started this process, and beside how many others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nasimb.errors import Elsewhere, InputError

if TYPE_CHECKING:
    from nasimb.supernet.ranks import Ranks


def place_in_torchrun(environment: Mapping[str, str]) -> tuple[int, int, int] | None:
    """(rank, world size, local rank) as torchrun tells its processes; None outside it, or where it started one alone.

    >>> place_in_torchrun({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"})
    (1, 2, 0)
    """
    told = [environment.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if not all(text.isdecimal() for text in told):
        return None
    rank, size, local = map(int, told)
    return (rank, size, local) if size > 1 else None


@contextmanager
def ranks_of_torchrun() -> Iterator[Ranks]:
    """This process among those that torchrun started, once all have come; alone where it started none."""
    from nasimb.supernet.joining import joined
    from nasimb.supernet.ranks import ONE_PROCESS

    place = place_in_torchrun(os.environ)
    if place is None:
        yield ONE_PROCESS
        return
    with joined(*place) as ranks:
        yield ranks


def refuse_torchrun() -> None:
    """A search is one process, or workers that come and go one by one: nothing that processes do in step.

    Raises:
        InputError: torchrun started several; the first says so, the others leave in silence (Elsewhere).
    """
    place = place_in_torchrun(os.environ)
    if place is None:
        return
    rank, size, _ = place
    refusal = InputError(
        "torchrun trains super-networks, and a search is not several processes in step",
        got=f"a search started {size} times",
        do="Run `torchrun ... -m nasimb supernet train ... --out DIR` first, then without torchrun `nasimb search "
        "--supernet DIR --workers N ...`.",
    )
    raise refusal if rank == 0 else Elsewhere(str(refusal), exit_code=refusal.exit_code)
