"""What a subnet costs: multiply-accumulates and parameters in closed form, latency by measurement.

Start with `macs_and_params`. Latency has a module of its own, `nasimb.cost.latency`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasimb.lazily import lazily

if TYPE_CHECKING:
    from nasimb.cost.base import Cost
    from nasimb.cost.macs import macs_and_params
else:
    __getattr__ = lazily(__name__, {"Cost": "nasimb.cost.base", "macs_and_params": "nasimb.cost.macs"})

__all__ = ["Cost", "macs_and_params"]
