"""Imports that take no longer than they must."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Around imports of torch and the like: a quarter quicker, and so is the end of the process.

    They make a million objects that live as long as the process does; looking for garbage among them is wasted, now,
    with every later collection, and once more when the interpreter goes.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
