"""Values that several commands take."""

from __future__ import annotations

from enum import StrEnum

DATA_FORMS = "folder:DIR, list:FILE, arrays:FILE.npz, cifar10:DIR, cifar100:DIR or digits"


class Sampling(StrEnum):
    """How training images are drawn."""

    natural = "natural"
    balanced = "balanced"
    sqrt = "sqrt"


class Format(StrEnum):
    """How a report is printed."""

    terminal = "terminal"
    markdown = "markdown"
    csv = "csv"
    json = "json"
    svg = "svg"
