"""How the processes that torchrun started find each other, also where it starts them again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from nasimb.supernet.ranks import Ranks

PATIENCE_SECONDS = 600.0
"""For the others to start; torchrun starts all at once, but not every disk loads torch in seconds."""


@contextmanager
def joined(rank: int, size: int, local: int) -> Iterator[Ranks]:
    """Join the other processes that torchrun started; its variables in the environment say where.

    Tensors on the CPU meet through gloo, those on GPUs through nccl.

    Raises:
        LostRank: they cannot be reached; Elsewhere on all but the first.
    """
    ranks = Ranks(rank, size, local)
    ranks.meet(lambda: _join(ranks))
    yield ranks
    # Not after a failure: to leave in order would wait for those who never come.
    dist.destroy_process_group()


def _join(ranks: Ranks) -> None:
    store, _, _ = next(rendezvous("env://", ranks.rank, ranks.size))
    fresh = PrefixStore(agreed_token(store, ranks, PATIENCE_SECONDS), store)
    on_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    dist.init_process_group(backend, store=fresh, rank=ranks.rank, world_size=ranks.size)


def agreed_token(store: Store, ranks: Ranks, patience_seconds: float) -> str:
    """A word that the living ranks agree on, and no earlier ones of the same torchrun did.

    torchrun keeps the store when it starts its processes again, so that some would find the addresses of those that
    died (pytorch issues 135712 and 167288); its count of restarts is not the same on every machine. Here each rank
    asks under a word of its own until it is answered: what was left by the dead is answered to nobody.

    Raises:
        RuntimeError: a rank has not come in time.
    """
    deadline, own = time.monotonic() + patience_seconds, uuid4().hex
    if not ranks.first:
        store.set(f"asks/{ranks.rank}", own)
        _wait_for(lambda: store.check([f"answer/{own}"]), deadline, "the first rank")
        token = store.get(f"answer/{own}").decode()
        store.set(f"{token}/heard/{ranks.rank}", own)
        return token
    waiting = set(range(1, ranks.size))

    def all_heard() -> bool:
        for rank in sorted(waiting):
            if store.check([f"{own}/heard/{rank}"]):
                waiting.discard(rank)
            elif store.check([f"asks/{rank}"]):
                store.set("answer/" + store.get(f"asks/{rank}").decode(), own)
        return not waiting

    _wait_for(all_heard, deadline, "another rank")
    return own


def _wait_for(reached: Callable[[], bool], deadline: float, whom: str) -> None:
    while not reached():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{whom} has not come")
        time.sleep(0.02)
