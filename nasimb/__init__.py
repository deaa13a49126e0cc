"""nasimb: budget-aware architecture search for imbalanced image data.

`nasimb search --budget 8gpu-h` on the command line. From Python `nasimb.search(...)` (see `nasimb.api.search`),
`nasimb.load(folder)`, and scikit-learn style `nasimb.NasimbClassifier(budget="3min").fit(X, y).predict(X)`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nasimb.api import Found
    from nasimb.api import search as search
    from nasimb.classifier import NasimbClassifier as NasimbClassifier
    from nasimb.export import load as load
else:
    from nasimb import search  # the room; it is empty, so that this imports nothing heavy

__version__ = "0.1.0"
__all__ = ["NasimbClassifier", "__version__", "load", "search"]

_HOMES = {"NasimbClassifier": "nasimb.classifier", "load": "nasimb.export"}


class _Search(ModuleType):
    """`nasimb.search` is a room of modules, and the function besides: a name has one meaning for the import system."""

    def __call__(self, **options: Any) -> Found:
        """`nasimb.api.search`."""
        from nasimb.api import search

        return search(**options)


sys.modules["nasimb.search"].__class__ = _Search


def __getattr__(name: str) -> object:
    """Each public name on its first use, so that `nasimb --help` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'nasimb' has no attribute {name!r}")
    found: object = getattr(import_module(_HOMES[name]), name)
    return found
