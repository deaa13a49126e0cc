"""What a command answered, and a search that takes a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tiny_run import ASSIGNED


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what is wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("nasimb: ")]
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0], "progress after the error"
        return lines[0]


Command = Callable[..., Answer]

SEARCH = ("search", "--config", "tiny.yaml", *(word for text in ASSIGNED for word in ("--set", text)))
