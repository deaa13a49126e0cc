"""nasimb: budget-aware architecture search for imbalanced image data.

`nasimb search --budget 8gpu-h` on the command line. From Python `nasimb.search(...)` (see `nasimb.api.search`),
`nasimb.load(folder)`, and scikit-learn style `nasimb.NasimbClassifier(budget="3min").fit(X, y).predict(X)`.

Every public name has an example that runs; those of one run take the run that the example of `nasimb.search` makes,
`runs/digits`. Public are the names in `__all__` of this module, of the modules beside it and of the rooms:

- data: `nasimb.data`, and `nasimb.care` for a closer look before a search.
- a search: `nasimb.budget` and `nasimb.ledger`, `nasimb.space`, `nasimb.progress` to watch it, `nasimb.errors`.
- what it found: `nasimb.rundir`, `nasimb.report`, `nasimb.export`.
- its use: `nasimb.deliver`, and `nasimb.adapt` at a new site.
- the parts, for research: `nasimb.nn`, `nasimb.losses`, `nasimb.heads`, `nasimb.supernet`, `nasimb.cost`,
  `nasimb.metrics`.

Rooms without `__all__` are the machinery between them.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from nasimb.lazily import lazily

if TYPE_CHECKING:
    from nasimb.api import Found
    from nasimb.api import search as search
    from nasimb.classifier import NasimbClassifier as NasimbClassifier
    from nasimb.export import load as load
else:
    from nasimb import search  # the room; it is empty, so that this imports nothing heavy

    # Each on its first use, so that `nasimb --help` does not wait for torch.
    __getattr__ = lazily(__name__, {"NasimbClassifier": "nasimb.classifier", "load": "nasimb.export"})

__version__ = "0.1.0"
"""As of the package."""

__all__ = ["NasimbClassifier", "__version__", "load", "search"]


class _Search(ModuleType):
    """`nasimb.search` is a room of modules, and the function besides: a name has one meaning for the import system."""

    def __call__(self, **options: Any) -> Found:
        """`nasimb.api.search`."""
        from nasimb.api import search

        return search(**options)


sys.modules["nasimb.search"].__class__ = _Search
