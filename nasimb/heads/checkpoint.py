"""The state of a long fit in one file, replaced atomically now and then, so that a kill costs a minute."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nasimb.errors import InputError, ResumeError
from nasimb.nn.tensors import read_tensors, write_tensors

IDENTITY = "identity"


class Checkpoint:
    """Where a fit saves itself.

    Args:
        path: of a safetensors file; its folder exists. A file that is there is what `load` gives.
        every_seconds: between two saves; each writes the whole state.
        clock: seconds, from any start.
    """

    def __init__(self, path: Path, every_seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self._every_seconds, self._clock = path, every_seconds, clock
        self._saved_at = clock()

    def load(self, identity: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """What was saved last, on the CPU; None where nothing was.

        Args:
            identity: of the problem and the options, as `offer` gets them.

        Raises:
            ResumeError: the file cannot be read, or is of another fit.
        """
        if not self.path.exists():
            return None
        try:
            tensors, metadata = read_tensors(self.path)
        except InputError as error:
            raise ResumeError("a checkpoint must be readable", got=f"{self.path}: {error}", do="Remove it.") from error
        saved = metadata.get(IDENTITY)
        if saved != _text(identity):
            raise ResumeError(
                "a fit continues only its own checkpoint",
                got=f"{self.path} of {saved}, to continue {_text(identity)}",
                do="Remove the file, or ask for the same fit.",
            )
        return tensors

    def offer(self, identity: Mapping[str, Any], tensors: Callable[[], Mapping[str, Tensor]]) -> None:
        """Save, if it is time to."""
        if self._clock() - self._saved_at < self._every_seconds:
            return
        write_tensors(self.path, tensors(), {IDENTITY: _text(identity)})
        self._saved_at = self._clock()

    def remove(self) -> None:
        """The fit has ended."""
        self.path.unlink(missing_ok=True)


def _text(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)
