"""For test_storage.py: a process that writes until it is killed."""

from __future__ import annotations

import itertools
from pathlib import Path

from nasimb.search.storage import FlockedJournal


def write_for_ever(file: Path, who: int) -> None:
    journal = FlockedJournal(file)
    for number in itertools.count():
        journal.append_logs([{"who": who, "number": number}])
