"""What a search would do with its budget, said before anything is spent."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import torch

from nasimb import afford, assemble
from nasimb.budget import Budget, Clock
from nasimb.config import RunConfig
from nasimb.errors import Interrupted
from nasimb.ledger import Ledger
from nasimb.phases.forecast import PHASES, Costs, Forecast, Training, forecast
from nasimb.phases.measure import Rig, head_costs, passed_again, search_costs
from nasimb.phases.prepare import Probe, choose_device, rounded_up
from nasimb.phases.supernet import Frozen
from nasimb.pipeline import held_by
from nasimb.price import Price
from nasimb.progress import Progress, Silent, Watcher
from nasimb.rundir import RunDir
from nasimb.session import Session, Stop
from nasimb.supernet.calibrate import source_images

MEASUREMENTS = 7
"""That are shown: data, candidates alone, the sampler, three companies, heads."""
STEPS = 3
"""Training steps of the network that is measured where none is trained yet: weights do not change what it takes."""


def plan_run(
    config: RunConfig,
    *,
    devices: Sequence[int] = (1,),
    price: Price | None = None,
    clock: Clock = time.monotonic,
    begun: float | None = None,
    watcher: Watcher | None = None,
    stop: Stop = lambda: 0,
) -> dict[str, Any]:
    """Probe for some seconds, and say what a run of `config` would do. Writes nothing but a temporary folder.

    Args:
        devices: numbers of devices like this one that share the search.
        price: of their time.
        clock, begun, watcher, stop: as `run_search` takes them.

    Returns:
        "budget", "limit_seconds", "smallest_budget", "seconds" of the units of work, and "plans": for every number of
        devices the seconds of every phase, on the clock and times the devices held, candidates with a range, money.

    Raises:
        InputError: as `run_search`; the price is of GPU time where there is no GPU.
        BudgetError: the budget is too small; names the smallest useful one.
    """
    watcher = watcher or Silent()
    device, budget = choose_device(config.device), Budget.parse(config.budget)
    holding = held_by(device)
    budget.limit_seconds(holding)
    if price is not None:
        price.check(holding)
    with tempfile.TemporaryDirectory(prefix="nasimb-plan-") as folder:
        # Signals are obeyed between two measurements: there is nothing to save.
        ledger = Ledger(None, clock, budget, holding, begun=begun)
        session = Session(RunDir(Path(folder)), ledger, clock, watcher, lambda: 0)
        costs, probe = _measured(session, config, device, _showing(watcher, clock, stop))
        smallest = rounded_up(probe.smallest_budget_seconds(costs.prepare_seconds, config.supernet_share))
    found = [forecast(costs, budget, holding, number) for number in devices]
    return {
        "budget": budget.text,
        "limit_seconds": found[0].limit_seconds,
        "device": str(device),
        "holding": asdict(holding),
        "smallest_budget": smallest,
        "seconds": _units(costs),
        "price": None if price is None else price.text,
        "plans": [_told(one, None if price is None else price.of(one.held, holding)) for one in found],
    }


def _showing(watcher: Watcher, clock: Clock, stop: Stop) -> Callable[[str], None]:
    """Shows what is being measured; raises Interrupted where a signal has come."""
    start, done = clock(), count()

    def show(what: str) -> None:
        watcher.show(Progress("plan", next(done) / MEASUREMENTS, clock() - start, None, what))
        signal_number = stop()
        if signal_number:
            raise Interrupted(signal_number, resume="A plan begins anew.")

    return show


def _measured(
    session: Session, config: RunConfig, device: torch.device, shown: Callable[[str], None]
) -> tuple[Costs, Probe]:
    """What a run does first, timed as the run will charge it; then what a run would only learn later."""
    shown("data and a training step")
    with session.ledger.phase("prepare"):
        ground = assemble.load_ground(config, device)
        for note in ground.task.notes:
            session.watcher.say(note)
        afford.check_budget(session, config, ground)
    prepare_seconds = session.ledger.spent("prepare")
    kept = session.run.read_json(assemble.PROBE_FILE)
    probe = afford.probe_units(session, config, ground) if kept is None else _probe_of(kept)
    frozen = _stand_in(session, config, ground)
    scoring = assemble.make_scoring(config, ground, frozen, assemble.inference_precision(session.run, config))
    for note in assemble.screening_notes(config, scoring):
        session.watcher.say(note)
    rig = Rig(scoring, probe.test_seconds / len(ground.task.test), session.clock, shown)
    search = search_costs(rig, assemble.make_question(config, ground))
    heads = head_costs(
        rig, assemble.make_comparison(config), session, num_test=len(ground.task.test), flip=ground.task.flip
    )
    training = None if ground.ready is not None else _training(config, probe)
    return Costs(prepare_seconds, training, search, heads, passed_again(scoring, heads)), probe


def _probe_of(values: dict[str, Any]) -> Probe:
    return Probe(values["step_seconds"], values["trial_seconds"], values["test_seconds"])


def _training(config: RunConfig, probe: Probe) -> Training:
    return Training(probe.step_seconds, config.supernet_share, config.training_steps)


def _stand_in(session: Session, config: RunConfig, ground: assemble.Ground) -> Frozen:
    """The super-network that will be searched; where it is still to be trained, one that hardly was."""
    if ground.ready is not None:
        return ground.ready
    training = assemble.new_training(config, ground, None)
    for _ in range(STEPS):
        training.step(0.5)
    images_BCHW = source_images(
        ground.task.source, seed=config.seed, device=torch.device("cpu"), limit=config.calibration_images
    )
    return Frozen(training.finished(), images_BCHW, frozenset(), {})


def _units(costs: Costs) -> dict[str, Any]:
    """Seconds of the units of work."""
    images = costs.search.images
    alone = {name: one.seconds(images.whole) for name, one in costs.search.typical.items()}
    together = {name: one.seconds(images.whole) for name, one in costs.search.companies.items()}
    screened = {name: one.screening_seconds(images.part) for name, one in costs.search.companies.items()}
    return {
        "prepare": costs.prepare_seconds,
        "training_step": None if costs.training is None else costs.training.step_seconds,
        "candidate_alone": alone,
        "candidate_in_a_batch": together,
        "candidate_screened": screened if images.part else None,
        "head_comparison": {head: costs.heads.compare_seconds(head) for head in costs.heads.heads},
        "test": costs.heads.evaluate_seconds(costs.heads.expected(passed_again=costs.passed_again)),
    }


def _told(one: Forecast, money: float | None) -> dict[str, Any]:
    unspent = None if one.limit_seconds is None or one.devices > 1 else max(one.limit_seconds - one.wall, 0.0)
    return {
        "devices": one.devices,
        "phases": {
            phase: {"wall_seconds": one.wall_seconds[phase], "device_seconds": one.device_seconds[phase]}
            for phase in PHASES
        },
        "wall_seconds": one.wall,
        "device_seconds": one.held,
        "unspent_seconds": unspent,
        "candidates": asdict(one.candidates),
        "promoted": asdict(one.promoted) if one.promoted.high else None,
        "training_steps": one.steps,
        "money": money,
    }
