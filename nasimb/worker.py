"""One more process for a run that another one owns: `nasimb worker RUN`."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from nasimb import assemble
from nasimb.budget import Clock, Holding
from nasimb.config import RunConfig
from nasimb.errors import Interrupted
from nasimb.phases.prepare import choose_device
from nasimb.phases.sharing import check_worker_storage, name_of_study, name_of_worker, read_answers
from nasimb.phases.work import Heart, Scorer, reason_to_leave, work
from nasimb.progress import Watcher
from nasimb.rundir import RunDir
from nasimb.search.candidate import Scoring
from nasimb.search.queue import OPEN, OVER, WorkQueue
from nasimb.search.storage import Reaching, open_storage
from nasimb.session import Stop
from nasimb.spec import parse

WAIT_SECONDS = 0.5


def run_worker(
    folder: Path, *, address: str | None, device: str, watcher: Watcher, stop: Stop, patience_seconds: float,
    clock: Clock = time.monotonic, alone: Callable[[], bool] = lambda: False,
) -> int:  # fmt: skip
    """Score candidates for the run in `folder` until its search is over; returns how many units were answered.

    The folder may be a copy on another host, where the address leads to a storage that both reach.

    Args:
        address: of the storage; None: the journal in the run folder.
        device: as `choose_device` takes it.
        patience_seconds: without a word of the owner, after which the worker leaves.
        alone: whether the process that started this one is gone.

    Raises:
        InputError: the folder is no run, its data are not those of the run, or its processes meet elsewhere.
        Interrupted: `stop` returned a signal. StorageError: the storage was away for too long.
    """
    run, on = RunDir(folder), choose_device(device)
    config = parse(RunConfig, run.config(), what=f"{folder / 'config.yaml'}")
    check_worker_storage(run, address)
    reaching = Reaching(open_storage(address, folder), address, clock=clock, between=lambda: _obey(stop))
    queue = WorkQueue(reaching, name_of_study(run))
    read_answers(folder, queue)  # a copy of the run folder has none but this worker's own
    name = f"{name_of_worker(os.getpid())}{uuid.uuid4().hex[:4]}"
    if not _wait(queue, watcher, stop, alone, clock, patience_seconds):
        watcher.say("There is nothing to do: the search is over, or nobody leads it.")
        return 0
    holding = Holding(gpus=int(on.type == "cuda"), threads=torch.get_num_threads())
    heart = Heart(queue, name, holding, f"process {os.getpid()} on {socket.gethostname()}, {on}", clock)
    with heart.beating():
        scoring: Scoring | None = None
        for loaded in _loading(run, config, on):
            heart.step()
            reason = reason_to_leave(heart, stop, alone, patience_seconds)
            if reason is not None:
                watcher.say(f"{reason}; nothing was begun.")
                return 0
            scoring = loaded
        assert scoring is not None
        watcher.say(f"{name} has loaded the super-network and works for {folder}.")
        return work(
            queue, heart, Scorer(scoring, seed=config.seed, clock=clock), folder, stop=stop, say=watcher.say,
            patience_seconds=patience_seconds, alone=alone,
        )  # fmt: skip


def _loading(run: RunDir, config: RunConfig, device: torch.device) -> Iterator[Scoring | None]:
    """Loads images and super-network: None between two steps, and at last how to score."""
    yield None
    ground = assemble.load_ground(config, device)
    assemble.check_unchanged(run, ground)
    yield None
    frozen = ground.ready or assemble.load_trained(run, device)
    yield assemble.make_scoring(config, ground, frozen, assemble.inference_precision(run, config))


def _wait(
    queue: WorkQueue, watcher: Watcher, stop: Stop, alone: Callable[[], bool], clock: Clock, patience_seconds: float
) -> bool:
    """Until the owner says that there is work; no device is held meanwhile. False where there will be none."""
    first = said = queue.owner()
    since, told = clock(), False
    # An owner that has died may have left OPEN behind: it must be heard.
    while said.state != OPEN or said.count == first.count:
        if said.state == OVER or alone() or clock() - since > patience_seconds:
            return False
        if not told:
            watcher.say("Waiting for the search to begin.")
            told = True
        _obey(stop)
        time.sleep(WAIT_SECONDS)
        now = queue.owner()
        if now.count != said.count:
            said, since = now, clock()
    return True


def _obey(stop: Stop) -> None:
    signal_number = stop()
    if signal_number:
        raise Interrupted(signal_number, resume="Start the worker again to go on.")
