"""The last phase: the winner is refitted, saved, and tested once, beside its baselines."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from nasimb.cost.latency import latency
from nasimb.data.base import ImageSet
from nasimb.data.task import Task
from nasimb.evaluate import Tested, assess, gain, predict_test
from nasimb.export import Description, Model, load, save
from nasimb.heads.compare import label
from nasimb.metrics import Floats, Integers
from nasimb.nn.moments import Statistics
from nasimb.phases.choice import Choice
from nasimb.phases.comparison import LARGE_PROBLEM
from nasimb.phases.examples import classes_of
from nasimb.phases.heads import HeadWork
from nasimb.phases.refit import Refits
from nasimb.search.candidate import Scoring, statistics_of
from nasimb.search.trial import Candidate
from nasimb.session import Session

PHASE = "evaluate"


@dataclass(frozen=True, eq=False)
class Finalist:
    """A model on its way to the test.

    Attributes:
        choice: subnet, calibration and head, with what they achieved on held-out images.
        model: built from them.
        cost: MACs, params, latency of one image.
    """

    choice: Choice
    model: Model
    cost: dict[str, Any]


def build(
    scoring: Scoring, refits: Refits, choice: Choice, target: ImageSet, provenance: Mapping[str, Any],
    *, statistics: Statistics | None = None, progress: Callable[[float], None] = lambda share: None,
) -> Finalist:  # fmt: skip
    """The extracted subnet with its head fitted to every target image.

    Args:
        statistics: of its norms, where they were calibrated before; None calibrates them.
        progress: as `Refits.fit` takes it.
    """
    candidate, supernet = choice.candidate, scoring.supernet
    statistics = statistics_of(scoring, candidate) if statistics is None else statistics
    work = refits.work
    head = refits.fit(choice, target, lambda: work.features_to_fit(candidate, target, statistics), progress)
    macs, params = scoring.cost_of(candidate.subnet)
    description = Description(
        classes=target.classes,
        class_counts_K=tuple(target.class_counts_K.tolist()),
        channels=supernet.in_channels,
        size=supernet.space.max_resolution,
        space=supernet.space,
        subnet=candidate.subnet,
        calibration=candidate.calibration,
        head={
            "name": label(choice.head),
            "setting": head.setting,
            "crops": work.crops.count,
            "solver": head.solver,
        },
        metrics={"validation": {**choice.metrics, "estimator": choice.estimator}},
        provenance=dict(provenance),
    )
    model = Model(supernet.extract(candidate.subnet, statistics), head.to_module(), description).to(scoring.device)
    latency_seconds = refits.latency(
        candidate.subnet, lambda: latency(model, next(iter(target.batches(1, scoring.device)))[0])
    )
    return Finalist(choice, model, {"macs": macs, "params": params, "latency_seconds": latency_seconds})


def evaluate_models(
    session: Session, scoring: Scoring, work: HeadWork, choices: Mapping[str, Choice], task: Task,
    provenance: Mapping[str, Any], *, seed: int, large: int = LARGE_PROBLEM,
) -> dict[str, Any]:  # fmt: skip
    """The "winner" and "baselines" parts of result.json; leaves the winner in RUN/best.

    What is tested as the winner is what was saved: the folder is loaded again for it. Models of one candidate share its
    calibration and a pass over the test images, those of one subnet a measured latency (their heads hardly differ in
    it, two measurements would).

    Args:
        large: as `Refits` takes it.
    """
    refits = Refits(session, work, large)
    finalists: dict[str, Finalist] = {}
    statistics: dict[Candidate, Statistics] = {}
    for number, (role, choice) in enumerate(_by_candidate(choices)):
        candidate = choice.candidate
        if candidate not in statistics:
            statistics = {candidate: statistics_of(scoring, candidate)}
        finalists[role] = build(
            scoring, refits, choice, task.target, provenance, statistics=statistics[candidate],
            progress=_watching(session, role, number, 2 * len(choices)),
        )  # fmt: skip
        if role == "winner":
            save(finalists[role].model, session.run.best)
            finalists[role] = replace(finalists[role], model=load(session.run.best).to(scoring.device))
        session.tick(PHASE, (number + 1) / (2 * len(choices)), f"{role} fitted")
    tested = _tested(session, scoring, finalists, task, seed)
    entries = {role: _entry(finalists[role], tested[role]) for role in choices}
    counts_K = task.target.class_counts_K.numpy()
    for role in entries:
        if role != "winner":
            entries[role]["winner_gain"] = gain(tested["winner"], tested[role], task.test, counts_K, seed=seed)
    _keep_predictions(session, task.test, tested)
    session.run.write_json("classes.json", classes_of(tested["winner"], task.test, task.target))
    winner = entries.pop("winner")
    finalists["winner"].model.description.metrics.update(test=winner["test"], cost=winner["cost"])
    save(finalists["winner"].model, session.run.best)
    refits.remove()
    return {"winner": winner, "baselines": entries}


def _watching(session: Session, role: str, number: int, parts: int) -> Callable[[float], None]:
    """Shows the fit that is part `number` of the phase, and obeys signals."""
    return lambda share: session.tick(PHASE, (number + share) / parts, f"fitting {role}, {share:.0%}")


def _by_candidate(choices: Mapping[str, Choice]) -> list[tuple[str, Choice]]:
    """Roles of one candidate one after the other, so that its crops are made once; the winner comes first."""
    order = list(dict.fromkeys(choice.candidate for choice in choices.values()))
    return sorted(choices.items(), key=lambda item: order.index(item[1].candidate))


def _tested(
    session: Session, scoring: Scoring, finalists: Mapping[str, Finalist], task: Task, seed: int
) -> dict[str, Tested]:
    counts_K, labels_N = task.target.class_counts_K.numpy(), task.test.labels_N.numpy()
    tested: dict[str, Tested] = {}
    for candidate in dict.fromkeys(finalist.choice.candidate for finalist in finalists.values()):
        models = {role: one.model for role, one in finalists.items() if one.choice.candidate == candidate}
        backbone = next(iter(models.values())).backbone
        heads = {role: model.head for role, model in models.items()}
        predicted = predict_test(backbone, heads, task.test, batch_size=scoring.batch_size, device=scoring.device)
        for role, one in predicted.items():
            found = assess(one.predicted_N, labels_N, counts_K, seed=seed)
            tested[role] = replace(found, probability_N=one.probability_N)
        session.tick(PHASE, 0.5 + 0.5 * len(tested) / len(finalists), f"{', '.join(models)} tested")
    return {role: tested[role] for role in finalists}


def _entry(finalist: Finalist, tested: Tested) -> dict[str, Any]:
    choice = finalist.choice
    return {
        "name": str(choice.candidate.subnet),
        "subnet": choice.candidate.subnet.to_dict(),
        "calibration": choice.candidate.calibration,
        "head": finalist.model.description.head["name"],
        "setting": choice.setting,
        "validation": {**choice.metrics, "estimator": choice.estimator},
        "test": tested.to_dict(),
        "cost": finalist.cost,
    }


def _keep_predictions(session: Session, test: ImageSet, tested: Mapping[str, Tested]) -> None:
    """RUN/predictions.csv: every test image with its label, what each model said, and how sure the winner was."""
    sure_N = tested["winner"].probability_N
    assert sure_N is not None
    names = [test.name(position) for position in range(len(test))]
    said = {"label": test.labels_N.numpy(), **{role: result.predicted_N for role, result in tested.items()}}
    session.run.write_text("predictions.csv", predictions_text(names, test.classes, said, sure_N))


def predictions_text(names: Sequence[str], classes: Sequence[str], said: Mapping[str, Integers], sure_N: Floats) -> str:
    """The text of predictions.csv.

    Args:
        said: class indices [N] by column.
    """
    # As objects: NumPy's own texts end before their last NULs.
    classes_K = np.array(classes, dtype=object)
    columns = {
        "image": names,
        **{role: classes_K[said_N] for role, said_N in said.items()},
        "winner_probability": sure_N,
    }
    # All texts in quotes: left to itself, the writer forgets those with a lone carriage return.
    return pd.DataFrame(columns).to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, float_format="%.4f")
