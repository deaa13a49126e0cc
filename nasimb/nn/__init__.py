"""Layers whose size is an argument: elastic convolutions, normalisers, and the moments they normalise with."""

from nasimb.nn.convert import convert_norm

__all__ = ["convert_norm"]
