"""A run looked at again and again until it is finished; its folder is read, and nothing in it is touched."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.trial import TrialState

from nasimb.budget import Clock
from nasimb.errors import InputError, WorkError
from nasimb.report.live import Look, alive
from nasimb.report.run import Run
from nasimb.report.status import status_lines
from nasimb.rundir import RunDir
from nasimb.search.storage import JOURNAL, FlockedJournal
from nasimb.session import Stop
from nasimb.visible import visible

Sleep = Callable[[float], None]
SLICE_SECONDS = 0.1
"""So long it takes at most until a signal is obeyed."""
SHARE = 9
"""The pause is so many times what the look took: to watch a long search takes a tenth of one core, and no more."""
TRIES, BETWEEN_TRIES_SECONDS = 5, 0.2


def watch(
    look: Callable[[], Look], show: Callable[[Look], None], *, every_seconds: float, clock: Clock, sleep: Sleep,
    stop: Stop,
) -> int:  # fmt: skip
    """Look and show until the run is finished, and once more then.

    Args:
        every_seconds: between two looks.
        stop: a signal's number ends it.

    Returns:
        That number; 0 where the run is finished.

    Raises:
        Whatever `look` and `show` raise.
    """
    while True:
        began = clock()
        found = look()
        show(found)
        if found.run.is_finished:
            return 0
        ended = clock()
        until = max(began + every_seconds, ended + SHARE * (ended - began))
        while (left := until - clock()) > 0:
            if stop():
                return stop()
            sleep(min(left, SLICE_SECONDS))
        if stop():
            return stop()


def checked_seconds(every_seconds: float) -> float:
    """A pause between two looks.

    Raises:
        InputError: it is none.
    """
    if not (math.isfinite(every_seconds) and every_seconds > 0):
        raise InputError("--every must be more than 0 seconds", got=every_seconds, do="Type for example --every 2.")
    return every_seconds


def looker(folder: Path, *, now: Clock, sleep: Sleep) -> Callable[[], Look]:
    """A look at a run folder, to be taken again and again.

    What is being written at that moment is read again; what stays damaged is refused as `Run.read` refuses it.

    Args:
        now: seconds since 1970.

    Raises:
        InputError: there is no run. Where it goes while it is watched, looks raise WorkError.
    """
    RunDir(folder).config()

    def look() -> Look:
        for tries_left in reversed(range(TRIES)):
            try:
                run = Run.read(folder)
                moment = now()
                return Look(run, moment, *(outstanding(folder) if alive(run, moment) else (None, None)))
            except (InputError, OSError):
                if not (folder / "config.yaml").is_file():
                    raise WorkError(
                        "a run folder must stay while it is watched", got=f"{folder}, which was removed",
                        do="Watch another one.",
                    ) from None  # fmt: skip
                if not tries_left:
                    raise
            sleep(BETWEEN_TRIES_SECONDS)
        raise AssertionError("the last try returns or raises")

    return look


def outstanding(folder: Path) -> tuple[int | None, int | None]:
    """Candidates handed out that wait for a worker, and that one is at; None where the folder's journal has no word."""
    exchange = RunDir(folder).read_json("exchange.json")
    if exchange is None or not (folder / JOURNAL).exists():
        return None, None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(FlockedJournal(folder / JOURNAL))  # to read it takes no lock, and writes nothing
    try:
        study = storage.get_study_id_from_name(exchange["study"])
    except KeyError:
        return None, None
    states = [trial.state for trial in storage.get_all_trials(study, deepcopy=False)]
    return states.count(TrialState.WAITING), states.count(TrialState.RUNNING)


def blocks(tell: Callable[[str], None]) -> Callable[[Look], None]:
    """A `show` without a terminal: the lines of `nasimb status`, whenever they say more than that time has passed."""
    told: list[str] = []

    def show(look: Look) -> None:
        lines = status_lines(look.run)
        news = [line for line in lines if line.split()[0] not in ("spent", "down")]
        news.append(" ".join(look.run.spent_seconds))
        if news != told:
            tell("\n".join(visible(line) for line in lines) + "\n")
            told[:] = news

    return show
