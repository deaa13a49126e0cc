"""What every phase is handed besides its own values: where it writes, who pays, who watches, who may stop it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nasimb.budget import Clock
from nasimb.errors import Interrupted
from nasimb.ledger import Ledger
from nasimb.progress import Progress, Watcher
from nasimb.rundir import RunDir

Stop = Callable[[], int]
"""The number of the signal that asks the run to stop; 0 while none has come."""


@dataclass(frozen=True, eq=False)
class Session:
    """One process working on one run folder."""

    run: RunDir
    ledger: Ledger
    clock: Clock
    watcher: Watcher
    stop: Stop

    def tick(self, phase: str, fraction: float, detail: str) -> None:
        """Call after every unit of work: charges it, shows it, and obeys a signal.

        Raises:
            Interrupted: a signal has come; whoever holds unsaved work catches it, saves and raises it again.
        """
        self.ledger.beat()
        self.watcher.show(Progress(phase, fraction, self.ledger.used_seconds(), self.ledger.limit_seconds, detail))
        signal_number = self.stop()
        if signal_number:
            raise Interrupted(signal_number, resume=f"Give the same command again to go on ({self.run.path}).")
