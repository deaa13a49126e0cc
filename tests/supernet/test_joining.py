"""Ranks find each other, and not those that died: threads around one store stand for processes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from nasimb.supernet.joining import agreed_token
from nasimb.supernet.ranks import Ranks


def join(store: dist.Store, order: list[int], size: int, patience: float = 20.0) -> list[str]:
    """The words that ranks agree on which come in this order, some time apart."""

    def come(place: int) -> str:
        time.sleep(0.1 * place)
        return agreed_token(store, Ranks(order[place], size), patience)

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(come, range(len(order))))


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_ranks_that_start_again_agree_on_a_new_word(order: list[int]) -> None:
    """In whatever order they come, with all that earlier ones left in the store."""
    store = dist.HashStore()
    words = []
    for _ in range(3):
        (word,) = set(join(store, order, size=3))
        words.append(word)
    assert len(set(words)) == 3


def test_ranks_that_died_while_they_joined_are_not_waited_for() -> None:
    store = dist.HashStore()
    with pytest.raises(RuntimeError, match="the first rank has not come"):
        join(store, [1], size=2, patience=0.1)
    with pytest.raises(RuntimeError, match="another rank has not come"):
        join(store, [0], size=2, patience=0.1)
    assert len(set(join(store, [0, 1], size=2))) == 1
    assert len(set(join(store, [1, 0], size=2))) == 1
