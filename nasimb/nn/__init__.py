"""Layers whose size is an argument: elastic convolutions, normalisers, and the moments they normalise with."""
