"""Public names of a room that is quick to import: the modules behind them are imported when a name is first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def lazily(room: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a room.

    Args:
        room: its dotted name.
        homes: the module of every name.

    Example:
        >>> found = lazily("shop", {"sqrt": "math"})
        >>> found("sqrt")(9.0)
        3.0
        >>> found("sqr")
        Traceback (most recent call last):
        AttributeError: module 'shop' has no attribute 'sqr'
    """

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        found: object = getattr(import_module(homes[name]), name)
        return found

    return find
