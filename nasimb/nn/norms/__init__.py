"""Normalisers that a stage may choose from, by name.

>>> NORMS["gn"](group_size=4).name  # as {name: gn, group_size: 4} in a configuration
'gn'
"""

from __future__ import annotations

from nasimb.nn.norms.base import NormSpec
from nasimb.nn.norms.bn import BatchNormSpec
from nasimb.nn.norms.evonorm_b0 import EvoNormB0Spec
from nasimb.nn.norms.evonorm_s0 import EvoNormS0Spec
from nasimb.nn.norms.frn import FilterResponseNormSpec
from nasimb.nn.norms.ghost_bn import GhostBatchNormSpec
from nasimb.nn.norms.gn import GroupNormSpec
from nasimb.nn.norms.instance import InstanceNormSpec
from nasimb.nn.norms.ln import LayerNormSpec
from nasimb.nn.norms.nbn import NormalisedBatchNormSpec
from nasimb.nn.norms.sync_bn import SyncBatchNormSpec

__all__ = ["NORMS", "NormSpec"]

NORMS: dict[str, type[NormSpec]] = {
    "bn": BatchNormSpec,
    "nbn": NormalisedBatchNormSpec,
    "gn": GroupNormSpec,
    "ln": LayerNormSpec,
    "in": InstanceNormSpec,
    "evonorm_s0": EvoNormS0Spec,
    "evonorm_b0": EvoNormB0Spec,
    "frn": FilterResponseNormSpec,
    "ghost_bn": GhostBatchNormSpec,
    "sync_bn": SyncBatchNormSpec,
}
"""Normalisers by name. One more is a class here, or `package.module:Class` where the name goes."""
