"""Whoever reads along may leave (`| head`): that ends the telling, not the work."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TextIO

NOBODY_READS = 128 + signal.SIGPIPE
"""Exit code, as a shell gives it."""


def told(text: str, file: TextIO) -> bool:
    """Print it at once; False where nobody reads: see `tell_nobody`."""
    try:
        print(text, file=file, flush=True)
    except BrokenPipeError:
        tell_nobody()
        return False
    return True


def tell_nobody() -> None:
    """After a BrokenPipeError: what is still written to an output that nobody reads goes nowhere, without an error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            with suppress(BrokenPipeError):
                stream.flush()
