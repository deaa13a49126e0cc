"""`nasimb retrain`: the network of a run trained fully on the target, within a budget of its own.

```
RUN/retrained/NAME/    a folder as that of a run: config.yaml, ledger.jsonl, best/, and result.json, which `nasimb
                       report RUN` shows beside the winner; training.safetensors while it is not finished
```
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasimb import assemble
from nasimb.budget import Budget, Clock
from nasimb.config import RunConfig
from nasimb.cost.latency import latency
from nasimb.cost.macs import macs_and_params
from nasimb.deliver.sources import run_and_trial
from nasimb.deliver.trial import scored_trial
from nasimb.errors import BudgetError, InputError
from nasimb.evaluate import Tested, assess, gain, predict_test
from nasimb.export import Description, Model, load, save
from nasimb.extension import first_budget
from nasimb.heads import Head
from nasimb.learned import Learned, keep_learned
from nasimb.ledger import Ledger
from nasimb.losses import LossSpec, parse_loss
from nasimb.phases.prepare import REFUSAL, choose_device, rounded_up
from nasimb.phases.supernet import SMALLEST_STEPS, is_finished, train_until
from nasimb.pipeline import held_by
from nasimb.progress import Silent, Watcher
from nasimb.rundir import RunDir, environment
from nasimb.search.trial import Candidate
from nasimb.session import Session, Stop
from nasimb.space import Subnet
from nasimb.spec import Spec, parse
from nasimb.supernet import build_supernet
from nasimb.supernet.pixels import pixel_mean_and_std
from nasimb.supernet.sampling import generator_for
from nasimb.supernet.subnet_training import SubnetRecipe, SubnetTraining
from nasimb.supernet.train import STATE_FILE

PHASE, ROW = "retrain", "retrained"
TRAINING_SHARE = 0.9
"""Most of what preparing has left; the rest calibrates and tests (heuristic)."""
MARGIN = 1.5
"""Of the time that is kept for them (heuristic)."""
BUDGET_MARGIN = 1.25
"""Of the smallest budget that is named: preparing does not always take the same time (heuristic)."""
STEPS_TIMED = 3
FIXED_SECONDS = 0.7
"""A latency and the bootstrap intervals of two models, whatever their size (heuristic)."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be trained, and how.

    Attributes:
        run: it comes from.
        candidate: its subnet is trained.
        result: result.json of the run.
        seed: of the order of images, and of fresh weights.
    """

    run: RunDir
    config: RunConfig
    result: Mapping[str, Any]
    candidate: Candidate
    trial: int | None
    loss: LossSpec
    recipe: SubnetRecipe
    from_scratch: bool
    seed: int

    def to_dict(self, budget: str) -> dict[str, Any]:
        """What the same command must bring again to go on."""
        images = (self.run.read_json("splits.json") or {}).get("fingerprints", {})
        begun = {"seed": self.config.seed, "budget": first_budget(self.run) or self.config.budget}
        return {
            "run": {**images, **begun},  # not its path: runs are moved and copied
            "trial": self.trial,
            "subnet": self.candidate.subnet.to_dict(),
            "loss": self.loss.model_dump(mode="json"),
            "recipe": self.recipe.model_dump(mode="json"),
            "from_scratch": self.from_scratch,
            "budget": budget,
            "seed": self.seed,
        }

    def name(self, budget: str) -> str:
        """Of the folder where none is given; options that are not the defaults stand in it as a digest."""
        trial = "winner" if self.trial is None else f"trial{self.trial}"
        scratch = ["scratch"] if self.from_scratch else []
        chosen = [one.model_dump(mode="json", exclude_defaults=True, exclude={"name"}) for one in self._options]
        text = json.dumps(chosen, sort_keys=True)
        digest = [hashlib.sha256(text.encode()).hexdigest()[:8]] if any(chosen) else []
        return "-".join([trial, self.loss.name, *scratch, *digest, budget.replace(",", "-"), f"seed{self.seed}"])

    @property
    def _options(self) -> tuple[Spec, Spec]:
        return self.loss, self.recipe


def retrain(
    source: str,
    budget: str,
    *,
    loss: str | Mapping[str, Any] = "balanced_softmax",
    from_scratch: bool = False,
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: Path | None = None,
    device: torch.device | None = None,
    clock: Clock = time.monotonic,
    begun: float | None = None,
    watcher: Watcher | None = None,
    stop: Stop = lambda: 0,
) -> dict[str, Any]:
    """Train the network of a finished run fully on its target; continues what was interrupted.

    The test split is read once more, for the retrained network and the winner on the same images.

    Args:
        source: RUN, for its winner, or RUN#NUMBER.
        budget: "30min", "2gpu-h": must limit time.
        loss: any of `nasimb.losses`, by name or as a mapping with options; `deferred` reweights late.
        from_scratch: begin with random weights instead of the super-network's and the winner's head.
        recipe: options of `SubnetRecipe`.
        out: folder; None is RUN/retrained/ and a name from all these options.
        clock, begun, watcher, stop: as `nasimb.pipeline.run_search` takes them.

    Returns:
        {"schema", "retrained": as an entry of the baselines in result.json of a run, "spend", "notes", "provenance"}.

    Raises:
        InputError: the run is not finished, or something asked for cannot be; BudgetError: there is no time for
            30 steps and the test, which is found out before the first of them. Interrupted: `stop` gave a signal;
            everything is saved.

    Example:
        >>> from itertools import count
        >>> hurried = count().__next__  # a clock on which every look takes a second; leave it out
        >>> found = retrain("runs/digits", budget="3min", loss="deferred", device=torch.device("cpu"), clock=hurried)
        >>> found["retrained"]["head"], found["spend"]["limit_seconds"]
        ('deferred, all weights', 180.0)
        >>> gain, low, high = found["retrained"]["winner_gain"]["balanced_accuracy"]  # of the winner over it
        >>> low <= gain <= high
        True
    """
    plan, limit = _plan(source, loss, from_scratch, recipe or {}, seed), Budget.parse(budget)
    device, watcher = device or choose_device("auto"), watcher or Silent()
    if limit.limit_seconds(held_by(device)) is None or limit.trials is not None:
        raise InputError("a training's budget must limit time alone", got=limit.text, do="Give hours or minutes.")
    folder = RunDir(out or plan.run.retrained / plan.name(limit.text))
    with ExitStack() as held:
        with _named_by_out():
            held.enter_context(folder.claimed())
            folder.open_with(plan.to_dict(limit.text), environment(str(device), sys.argv), watcher.say)
        found = folder.read_json("result.json")
        if found is not None:
            watcher.say(f"{folder.path} is finished; this is what it found.")
            return found
        ledger = Ledger(folder.ledger, clock, limit, held_by(device), warn=watcher.say, begun=begun)
        session = Session(folder, ledger, clock, watcher, stop)
        with ledger.beating():
            return _retrain(session, plan, limit, device)


def _plan(source: str, loss: str | Mapping[str, Any], from_scratch: bool, recipe: Mapping[str, Any], seed: int) -> Plan:
    path, number = run_and_trial(source)
    run = RunDir(path)
    config, result = parse(RunConfig, run.config(), what=f"the configuration of {path}"), run.read_json("result.json")
    if result is None:
        do = "Finish it: give the same search command again."
        raise InputError("only a finished run has a network to retrain", got=f"{path} without result.json", do=do)
    if not from_scratch and config.supernet is None and not is_finished(run.supernet):
        do = "Restore it, or train --from-scratch."
        raise InputError("weights are inherited from the run's super-network", got=f"none in {run.supernet}", do=do)
    winner = result["winner"]
    candidate = Candidate(Subnet.from_dict(winner["subnet"]), winner["calibration"])
    if number is not None:
        candidate = scored_trial(run, number).candidate
    options = parse(SubnetRecipe, recipe, what="the recipe")
    return Plan(run, config, result, candidate, number, parse_loss(loss), options, from_scratch, seed)


@contextmanager
def _named_by_out() -> Iterator[None]:
    """A sentence on the folder names the option of this command for it."""
    try:
        yield
    except InputError as error:
        raise type(error)(error.must_hold, got=error.got, do=error.do.replace("--run", "--out")) from None


def _retrain(session: Session, plan: Plan, budget: Budget, device: torch.device) -> dict[str, Any]:
    """The story: every step spends from the ledger."""
    ledger, folder = session.ledger, session.run.path
    with _refusing(session), ledger.phase("prepare"):
        ground = assemble.load_ground(plan.config, device)
        assemble.check_unchanged(plan.run, ground)
        training, learned = _training(plan, ground)
        if (folder / STATE_FILE).exists():
            training.resume(folder)
        kept_seconds = _seconds_to_test(session, plan, ground, training)
        if not training.steps_done:
            _check_affordable(session, budget, training, kept_seconds)
        session.tick("prepare", 1.0, f"{len(ground.task.target)} images")
    # Of what is left, so that a training that was stopped, and prepared twice, still ends in time.
    left = ledger.remaining() + ledger.spent(PHASE)
    seconds = min(TRAINING_SHARE * left, left - kept_seconds)
    with ledger.phase(PHASE):
        train_until(
            session, training, folder, PHASE, lambda: _share(ledger.spent(PHASE), seconds), seconds, least_steps=1
        )
        training.save(folder)
    with ledger.phase("evaluate"):
        model, cost = _model(plan, ground, training, session.run.read_json("environment.json") or {})
        save(model, session.run.best)
        keep_learned(session.run.best, learned)
        entry = _tested(plan, ground, load(session.run.best).to(device), cost)
        model.description.metrics.update(test=entry["test"], cost=cost)
        save(model, session.run.best)
        session.tick("evaluate", 1.0, "tested")
    found = session.run.write_json("result.json", {
        "schema": 1,
        ROW: entry,
        "spend": {
            "limit": budget.text,
            "limit_seconds": ledger.limit_seconds,
            "spent_seconds": round(ledger.spent(), 3),
            "by_phase": {phase: round(seconds, 3) for phase, seconds in ledger.by_phase().items()},
        },
        "steps": training.steps_done,
        "notes": ["The test split was read once more, after the run's own test: do not choose by it."],
        "provenance": model.description.provenance,
    })  # fmt: skip
    (folder / STATE_FILE).unlink(missing_ok=True)
    return found


@contextmanager
def _refusing(session: Session) -> Iterator[None]:
    """What is refused before a step was done leaves no folder."""
    try:
        yield
    except InputError:
        if not (session.run.path / STATE_FILE).exists():
            session.run.discard()
        raise


def _check_affordable(session: Session, budget: Budget, training: SubnetTraining, kept_seconds: float) -> None:
    """Refuse what leaves no time for a training that is worth the name; a few steps are timed, and undone.

    Raises:
        BudgetError: names the smallest budget that works.
    """
    with tempfile.TemporaryDirectory() as scratch:
        training.save(Path(scratch))
        training.step(0.0)  # the first warms up
        before = session.clock()
        for _ in range(STEPS_TIMED):
            float(training.step(0.0))  # which waits for a GPU
        training_seconds = SMALLEST_STEPS * (session.clock() - before) / STEPS_TIMED
        training.resume(Path(scratch))
    needed = max(training_seconds / TRAINING_SHARE, training_seconds + kept_seconds)
    if session.ledger.remaining() < needed:
        smallest = BUDGET_MARGIN * (session.ledger.spent() + needed)
        raise BudgetError(
            f"{REFUSAL} {SMALLEST_STEPS} steps of training and a test",
            got=f"{budget.text}, that is {session.ledger.limit_seconds:.0f} s here",
            do=f"Give at least {rounded_up(smallest)} on this machine.",
        )


def _seconds_to_test(session: Session, plan: Plan, ground: assemble.Ground, training: SubnetTraining) -> float:
    """What the last phase will take: calibration, measured here, and two passes over the test images at its speed."""
    limit, before = plan.config.calibration_images, session.clock()
    training.network(limit)
    seconds = session.clock() - before
    return FIXED_SECONDS + MARGIN * seconds * (1 + 2 * len(ground.task.test) / min(limit, len(ground.task.target)))


def _share(spent: float, seconds: float) -> float:
    return spent / seconds if seconds > 0 else 1.0


def _training(plan: Plan, ground: assemble.Ground) -> tuple[SubnetTraining, Learned]:
    """The network before its first step, and the images that it will have learned from."""
    task, subnet = ground.task, plan.candidate.subnet
    first, target = None, frozenset(task.target.hashes())
    learned = Learned(target, target)
    if plan.from_scratch:
        mean_C, std_C = pixel_mean_and_std(task.target)
        supernet = build_supernet(
            ground.space, task.target.channels, task.target.num_classes, mean_C, std_C, generator_for(plan.seed, 0)
        )
    else:
        frozen = ground.ready or assemble.load_trained(plan.run, ground.device)
        supernet, first = frozen.supernet, None if plan.trial is not None else _first(plan)
        learned = Learned(target | frozen.source_hashes, target)
    return SubnetTraining(
        supernet, subnet, task.target, plan.loss, plan.recipe, seed=plan.seed, device=ground.device, flip=task.flip,
        fresh=plan.from_scratch, first=first,
    ), learned  # fmt: skip


def _first(plan: Plan) -> tuple[Tensor, Tensor] | None:
    """The winner's head, where it and the loss are of logits of any size."""
    head = load(plan.run.best).head
    return (head.weight, head.bias) if isinstance(head, nn.Linear) and not plan.loss.cosine else None


def _model(
    plan: Plan, ground: assemble.Ground, training: SubnetTraining, environment: Mapping[str, Any]
) -> tuple[Model, dict[str, Any]]:
    target, subnet = ground.task.target, plan.candidate.subnet
    backbone, weight_KD, bias_K = training.network(plan.config.calibration_images)
    scale, zeros_D = plan.loss.cosine_scale, torch.zeros_like(weight_KD[0])
    if scale is not None:
        bias_K = torch.zeros_like(bias_K)
    head = Head(weight_KD, bias_K, zeros_D, torch.ones_like(zeros_D), plan.loss.name, 0.0, scale)
    description = Description(
        classes=target.classes, class_counts_K=tuple(target.class_counts_K.tolist()), channels=target.channels,
        size=ground.space.max_resolution, space=ground.space, subnet=subnet, calibration="target-natural",
        head={"name": plan.loss.name, "setting": None, "crops": 1, "solver": "sgd"},
        provenance={
            "seed": plan.seed, "data": assemble.identity(ground), "retrained": plan.recipe.model_dump(mode="json"),
            "from_scratch": plan.from_scratch, "trial": plan.trial, "device": str(ground.device),
            **{name: environment.get(name) for name in ("command", "commit", "versions")},
        },
    )  # fmt: skip
    model = Model(backbone, head.to_module(), description).to(ground.device)
    macs, params = macs_and_params(ground.space, subnet, target.channels)
    seconds = latency(model, next(iter(target.batches(1, ground.device)))[0])
    numbers = weight_KD.numel(), weight_KD.numel() + bias_K.numel()
    return model, {"macs": macs + numbers[0], "params": params + numbers[1], "latency_seconds": seconds}


def _tested(plan: Plan, ground: assemble.Ground, model: Model, cost: dict[str, Any]) -> dict[str, Any]:
    """A row as the run's baselines have it; the winner is tested on the same images beside it."""
    task, counts_K = ground.task, ground.task.target.class_counts_K.numpy()

    def assessed(one: Model) -> Tested:
        found = predict_test(
            one.backbone, {ROW: one.head}, task.test, batch_size=256, device=ground.device
        )[ROW]  # fmt: skip
        return assess(found.predicted_N, task.test.labels_N.numpy(), counts_K, seed=plan.config.seed)

    tested, winner = assessed(model), assessed(load(plan.run.best).to(ground.device))
    description = model.description
    return {
        "name": str(description.subnet),
        "subnet": description.subnet.to_dict(),
        "calibration": description.calibration,
        "head": f"{plan.loss.name}, {'from scratch' if plan.from_scratch else 'all weights'}",
        "setting": None,
        "validation": {"balanced_accuracy": None, "estimator": "none"},
        "test": tested.to_dict(),
        "cost": cost,
        "winner_gain": gain(winner, tested, task.test, counts_K, seed=plan.config.seed),
    }
