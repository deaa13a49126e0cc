"""nasimb: budget-aware architecture search for imbalanced image data.

`nasimb search --budget 8gpu-h` on the command line; from Python, start at `nasimb.pipeline.run_search`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nasimb.export import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    """`nasimb.load` on first use, so that `nasimb --help` does not wait for torch."""
    if name == "load":
        from nasimb.export import load

        return load
    raise AttributeError(f"module 'nasimb' has no attribute {name!r}")
