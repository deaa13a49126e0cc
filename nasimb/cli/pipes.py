"""Whoever reads along may leave (`| head`): that ends the telling, not the work."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

NOBODY_READS = 128 + signal.SIGPIPE
"""Exit code, as a shell gives it."""


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
