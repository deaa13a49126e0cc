"""Normalisers that a stage may choose from, by name."""

from __future__ import annotations

from nasimb.nn.norms.base import NormSpec
from nasimb.nn.norms.bn import BatchNormSpec
from nasimb.nn.norms.nbn import NormalisedBatchNormSpec

NORMS: dict[str, type[NormSpec]] = {
    "bn": BatchNormSpec,
    "nbn": NormalisedBatchNormSpec,
}
