"""One run, from a configuration to a result: the story of nasimb. Read this file first."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nasimb import afford, assemble
from nasimb.budget import Budget, Clock, Holding
from nasimb.config import RunConfig
from nasimb.errors import InputError, ResumeError
from nasimb.extension import earlier_results, extension_notes, extensions, first_budget, just_extended, settle
from nasimb.learned import Learned, keep_learned
from nasimb.ledger import Ledger
from nasimb.phases.ablation import calibrations_keep, compare_calibrations
from nasimb.phases.evaluate import evaluate_models
from nasimb.phases.heads import HeadWork
from nasimb.phases.prepare import choose_device
from nasimb.phases.search import search
from nasimb.phases.sharing import ALONE, Exchange, Sharing
from nasimb.phases.supernet import is_finished, load
from nasimb.progress import Silent, Watcher
from nasimb.rundir import RunDir, environment
from nasimb.search.failures import memory_sentences
from nasimb.search.trial import CACHED, FAILED, FINISHED, INFEASIBLE, SCREENED, Candidate, Trial
from nasimb.session import Session, Stop
from nasimb.space import Subnet
from nasimb.supernet.ranks import ONE_PROCESS, Ranks


def run_search(
    config: RunConfig,
    folder: Path,
    *,
    clock: Clock = time.monotonic,
    begun: float | None = None,
    watcher: Watcher | None = None,
    stop: Stop = lambda: 0,
    sharing: Sharing = ALONE,
) -> dict[str, Any]:
    """Search the best network for `config` in the run folder `folder`; continues a run that was interrupted.

    Args:
        clock: where the budget's time comes from.
        begun: on it, when this process began, and from when on the budget pays; None: when its first phase does.
        watcher: shown every step.
        stop: asked after every unit of work for a signal number; 0 goes on.
        sharing: workers to start here, and where those from elsewhere join.

    Returns:
        The contents of `folder/result.json`.

    Raises:
        InputError: something asked for is wrong (one sentence); a run refused at its start leaves nothing behind.
        Interrupted: `stop` returned a signal; everything finished is saved.
    """
    run, watcher = RunDir(folder), watcher or Silent()
    device, budget = choose_device(config.device), Budget.parse(config.budget)
    budget.limit_seconds(held_by(device))  # refused before a folder is made
    with run.claimed(), memory_sentences():
        config = _as_extended(run, config, watcher)
        run.open_with(config.to_dict(), environment(str(device), sys.argv), watcher.say)
        result = run.read_json("result.json")
        if result is not None:
            watcher.say(f"{folder} is finished; this is what it found.")
            return result
        session = _session(run, budget, device, clock, begun, watcher, stop)
        with session.ledger.beating(), _sharing(session, sharing, device) as exchange:
            return _find(session, config, budget, device, exchange)


def _find(
    session: Session, config: RunConfig, budget: Budget, device: torch.device, exchange: Exchange
) -> dict[str, Any]:
    """The story: every step spends from the ledger, and leaves in the run folder what a resumed run starts from."""
    run, spending = session.run, session.ledger.phase
    ground = _prepare(session, config, device)
    exchange.open()
    with spending("supernet"):
        first_limit = Budget.parse(first_budget(run) or budget.text).limit_seconds(held_by(device))
        frozen = assemble.frozen_supernet(
            session, config, ground, run.supernet, config.supernet_share, limit_seconds=first_limit
        )
    with spending("prepare"):
        scoring = assemble.make_scoring(config, ground, frozen, assemble.inference_precision(run, config))
    for note in assemble.screening_notes(config, scoring):
        session.watcher.say(note)
    question, comparison = assemble.make_question(config, ground), assemble.make_comparison(config)
    # The network that is handed over computes in float32; so must the features that its head is fitted to.
    exact, num_test = replace(scoring, dtype=torch.float32), len(ground.task.test)
    heads = HeadWork(session, exact, comparison, num_test=num_test, flip=ground.task.flip)
    with spending("head"):
        heads.measure_largest(Candidate(ground.space.largest(), question.calibrations[0]))
    with spending("search"):
        trials = search(
            session, scoring, question, max_trials=budget.trials, reserve_seconds=heads.tail_seconds, exchange=exchange
        )
    earlier = earlier_results(run)
    with spending("head"):
        keep = calibrations_keep(session, scoring, heads, trials)
        choices = heads.choose(trials, question.limits, [_winner_of(result) for result in earlier], keep)
    with spending("search"):
        calibrations = compare_calibrations(session, scoring, heads, choices, trials)
    with spending("evaluate"):
        provenance = _provenance(session, config, ground)
        models = evaluate_models(session, exact, heads, choices, ground.task, provenance, seed=config.seed)
        keep_learned(run.best, Learned(frozen.source_hashes, frozenset(ground.task.target.hashes())))
        exchange.settle()
    result = {
        "schema": 1,
        **models,
        "spend": _spend(session, budget),
        "trials": _count(trials),
        "screening": None if scoring.screen is None else scoring.screen.receipt(trials, len(scoring.fitted)),
        "calibrations": calibrations,
        "notes": [*ground.task.notes, *extension_notes(run)],
        "test_reads": 1 + len(earlier),
        "provenance": provenance,
    }
    return run.write_json("result.json", result)


@contextmanager
def _sharing(session: Session, sharing: Sharing, device: torch.device) -> Iterator[Exchange]:
    """Whoever joins the run; local workers are gone when it ends, however it ends."""
    every = device.type == "cuda" and device.index is None  # "cuda:1" is that one alone
    devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if every else [str(device)]
    exchange = Exchange(session, sharing, threads=torch.get_num_threads(), devices=devices)
    try:
        yield exchange
    finally:
        exchange.leave()


def held_by(device: torch.device) -> Holding:
    """What a process that computes on `device` holds."""
    return Holding(gpus=int(device.type == "cuda"), threads=torch.get_num_threads())


def _session(
    run: RunDir, budget: Budget, device: torch.device, clock: Clock, begun: float | None, watcher: Watcher, stop: Stop
) -> Session:  # fmt: skip
    ledger = Ledger(run.ledger, clock, budget, held_by(device), warn=watcher.say, begun=begun)
    ledger.resumed = ledger.resumed and not just_extended(run, ledger.spent())
    return Session(run, ledger, clock, watcher, stop)


def _prepare(session: Session, config: RunConfig, device: torch.device) -> assemble.Ground:
    """Everything that can be wrong is found here, once; a run refused here leaves nothing in the way of the next."""
    checked = session.run.read_json("splits.json") is not None
    with _refusing(session, checked=checked), session.ledger.phase("prepare"):
        ground = assemble.load_ground(config, device)
        if not checked:
            for note in ground.task.notes:
                session.watcher.say(note)
            afford.check_budget(session, config, ground)
            afford.check_disk(session, config, ground, trained_in=session.run.supernet)
            session.run.write_json("splits.json", _splits(ground))
        else:
            assemble.check_unchanged(session.run, ground)
            afford.check_disk(session, config, ground, trained_in=session.run.supernet)
        session.tick("prepare", 1.0, f"{len(ground.task.target)} images of {ground.task.target.num_classes} classes")
    return ground


def _splits(ground: assemble.Ground) -> dict[str, Any]:
    task = ground.task
    classes = {"classes": list(task.target.classes), "source_classes": list(task.source.classes)}
    return {"fingerprints": assemble.identity(ground), **classes, "indices": task.splits()}


@contextmanager
def _refusing(session: Session, *, checked: bool) -> Iterator[None]:
    """What is refused before anything was checked leaves no folder; what was computed before stays.

    A signal, a full disk and the like refuse nothing: the same command goes on, and what was spent is spent.
    """
    try:
        yield
    except InputError:
        if not checked:
            session.run.discard()
        raise


def _provenance(session: Session, config: RunConfig, ground: assemble.Ground) -> dict[str, Any]:
    found = session.run.read_json("environment.json") or {}
    return {
        "seed": config.seed,
        "device": str(ground.device),
        "inference_precision": assemble.inference_precision(session.run, config),
        "versions": found.get("versions", {}),
        "data": assemble.identity(ground),
        "source_is_target": ground.task.source_is_target,
        "commit": found.get("commit"),
        "command": found.get("command"),
    }


def _as_extended(run: RunDir, config: RunConfig, watcher: Watcher) -> RunConfig:
    """`config`; with its present budget where it started a run that was extended and finished since.

    Raises:
        ResumeError: the run was extended, and the extension is not finished.
    """
    made = extensions(run)
    settle(run)
    if config.budget not in {one.before for one in made}:
        return config
    grown = config.model_copy(update={"budget": made[-1].budget})
    if grown.to_dict() != run.config():
        return config
    if not (run.path / "result.json").exists():
        raise ResumeError(
            "an extended run goes on with nasimb extend",
            got=f"the budget {config.budget} for {run.path}, which was extended to {grown.budget}",
            do=f"Type nasimb extend {run.path}.",
        )
    watcher.say(f"{run.path} was extended from {config.budget} to {grown.budget}.")
    return grown


def _winner_of(result: dict[str, Any]) -> Candidate:
    return Candidate(Subnet.from_dict(result["winner"]["subnet"]), result["winner"]["calibration"])


def _spend(session: Session, budget: Budget) -> dict[str, Any]:
    ledger = session.ledger
    return {
        "limit": budget.text,
        "limit_seconds": ledger.limit_seconds,
        "spent_seconds": round(ledger.spent(), 3),
        "used_seconds": round(ledger.used_seconds(), 3),
        "gpu_seconds": round(ledger.spent_of("gpu"), 3),
        "cpu_seconds": round(ledger.spent_of("cpu"), 3),
        "by_phase": {phase: round(seconds, 3) for phase, seconds in ledger.by_phase().items()},
    }


def _count(trials: list[Trial]) -> dict[str, int]:
    states = Counter(trial.state for trial in trials)
    names = {
        "finished": FINISHED, "cached": CACHED, "infeasible": INFEASIBLE, "failed": FAILED, "screened_out": SCREENED,
    }  # fmt: skip
    return {name: states[state] for name, state in names.items()}


def train_supernet(
    config: RunConfig,
    folder: Path,
    *,
    clock: Clock = time.monotonic,
    begun: float | None = None,
    watcher: Watcher | None = None,
    stop: Stop = lambda: 0,
    ranks: Ranks = ONE_PROCESS,
) -> dict[str, Any]:
    """Train a super-network on `config.source` and leave it in `folder` for `nasimb search --supernet`; resumes.

    Args:
        begun: as `run_search` takes it.
        ranks: which of several processes this is, that train it together (`nasimb.supernet.joining.joined`). The first
            owns the folder and the ledger, which charges the devices of all; the others neither read nor write there.

    Returns:
        How it was trained, as in supernet.json.

    Raises:
        InputError: as `run_search`, or the folder holds something else. Interrupted: as `run_search`.
        LostRank: another rank is gone. Elsewhere: another rank failed and says why.
    """
    run, watcher = RunDir(folder), watcher or Silent()
    device, budget, holding = _for_training(config, ranks)
    with memory_sentences(), ExitStack() as held:
        with ranks.alike():
            if ranks.first:
                held.enter_context(run.claimed())
                run.open_with(config.to_dict(), environment(str(device), sys.argv), watcher.say)
            path = run.ledger if ranks.first else None
            ledger = Ledger(path, clock, budget, holding, warn=watcher.say, begun=begun)
        session = Session(run, ledger, clock, watcher, stop)
        if ranks.from_first(ranks.first and is_finished(folder)):
            return ranks.from_first(load(folder, device).info if ranks.first else {})
        checked = ranks.from_first(ranks.first and run.read_json("splits.json") is not None)
        held.enter_context(ledger.beating())
        with _refusing(session, checked=checked or not ranks.first), ledger.phase("prepare"):
            ground = _load_source(config, device, ranks)
            _check_common(ranks, config, ground)
            if not checked:
                afford.check_training_budget(session, config, ground, ranks)
            with ranks.alike():
                if ranks.first:
                    afford.check_disk(session, config, ground, trained_in=folder)
                if ranks.first and not checked:
                    run.write_json("splits.json", {"source_classes": list(ground.task.source.classes)})
        with ledger.phase("supernet"):
            # By what is left, which counts devices: a restart may bring more or fewer of them.
            seconds = ledger.remaining() + ledger.spent("supernet")
            # The recipe follows from what was planned at first: more or fewer devices must not change it.
            probed = (run.read_json(assemble.PROBE_FILE) or {}) if ranks.first else {}
            planned = ranks.from_first(probed.get("planned_seconds"))
            return assemble.trained_supernet(session, config, ground, folder, planned, seconds, ranks).info


def _for_training(config: RunConfig, ranks: Ranks) -> tuple[torch.device, Budget, Holding]:
    """This rank's device, the budget, and what all ranks hold together."""
    with ranks.alike():
        device, budget = choose_device(config.device, ranks), Budget.parse(config.budget)
    if ranks.size > 1 and device.type == "cuda":
        torch.cuda.set_device(device)  # or every process would hold memory of the first GPU besides
    own = held_by(device)
    holding = Holding(gpus=int(ranks.total(own.gpus)), threads=int(ranks.total(own.threads)))
    with ranks.alike():
        if budget.limit_seconds(holding) is None:
            raise InputError("a training's budget must limit time", got=budget.text, do="Give hours or minutes.")
    return device, budget, holding


def _load_source(config: RunConfig, device: torch.device, ranks: Ranks) -> assemble.Ground:
    """The images on every rank; what is to be downloaded, one of each machine fetches before the others look."""
    ground = None
    with ranks.alike():
        if ranks.local == 0 or not config.download:
            ground = assemble.load_source(config, device)
    with ranks.alike():
        return ground or assemble.load_source(config, device)


def _check_common(ranks: Ranks, config: RunConfig, ground: assemble.Ground) -> None:
    """Gradients of other images, or of another command, are not to be added to these."""
    if ranks.size == 1:
        return
    own = {"command": config.to_dict(), "images": ground.task.source.fingerprint()}
    common = ranks.from_first(own)
    different = [name for name in own if own[name] != common[name]]
    with ranks.alike():
        if different:
            raise InputError(
                "all processes of a training must have the same command and the same images",
                got=f"another {' and another '.join(different)} in process {ranks.rank}",
                do="Give every machine the same of both.",
            )
