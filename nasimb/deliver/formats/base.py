"""The contract of a format: a network into one file, and the file as something that runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from nasimb.deliver.network import Shipped

Runner = Callable[[Tensor], Tensor]
"""From images as the shipped network takes them to logits_BK, on the CPU."""


class Format(ABC):
    """One way to write a model down.

    Attributes:
        file: name of the file.
        always_prepares: whether what reads it does the preprocessing anyway.
    """

    file: ClassVar[str]
    always_prepares: ClassVar[bool] = False

    def check(self) -> None:  # noqa: B027  # most formats need nothing
        """Raise InputError where what the format needs is not installed."""

    @abstractmethod
    def write(self, shipped: Shipped, metadata: Mapping[str, str], path: Path) -> None:
        """Write the file; the batch is dynamic, the metadata are inside."""

    @abstractmethod
    def runner(self, path: Path) -> Runner:
        """The network that was written, read back."""
