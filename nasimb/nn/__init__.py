"""Layers whose size is an argument: elastic convolutions, normalisers, and the moments they normalise with.

`convert_norm` brings the normalisers into any torch model; `nasimb.nn.norms` has their table.
"""

from nasimb.nn.convert import convert_norm

__all__ = ["convert_norm"]
