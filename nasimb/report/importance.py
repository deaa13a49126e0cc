"""Which choices the score depended on: Optuna's fANOVA over the trials of a run (Hutter et al. 2014)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from nasimb.search.trial import FINISHED, Trial

LEAST_TRIALS, MOST_TRIALS, SEED = 20, 1000, 0
"""Of more trials the latest are taken: fANOVA's time grows with their number, what it finds hardly does."""


def importances(trials: Sequence[Trial]) -> tuple[pd.DataFrame, str]:
    """Columns choice and importance (shares of the variance of the score, 1 in all), largest first; and why not."""
    scored = [trial for trial in trials if trial.state == FINISHED and trial.score is not None][-MOST_TRIALS:]
    empty = pd.DataFrame(columns=["choice", "importance"])
    if len(scored) < LEAST_TRIALS:
        return empty, f"Importances need {LEAST_TRIALS} scored trials; there are {len(scored)}."
    chosen = [_choices(trial) for trial in scored]
    seen = {name: sorted({one[name] for one in chosen}, key=str) for name in chosen[0]}
    varied = {name: values for name, values in seen.items() if len(values) > 1}
    if not varied or len({trial.score for trial in scored}) < 2:
        return empty, "All scores are alike, so that no choice explains them."
    study = _study(scored, chosen, varied)
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=SEED), normalize=True)
    return pd.DataFrame({"choice": list(found), "importance": list(found.values())}), ""


def _study(
    scored: Sequence[Trial], chosen: Sequence[Mapping[str, Any]], varied: Mapping[str, list[Any]]
) -> optuna.Study:
    """The trials as a study in memory: nothing is read from the run's storage, which may be gone."""
    distributions: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(values) for name, values in varied.items()
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # "a new study" is no news
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={name: one[name] for name in varied}, distributions=distributions, value=trial.score
            )
            for trial, one in zip(scored, chosen, strict=True)
        ]
    )
    return study


def _choices(trial: Trial) -> dict[str, int | str]:
    """A candidate as single choices: "width 2" is that of the second stage."""
    subnet = trial.candidate.subnet
    found: dict[str, int | str] = {"resolution": subnet.resolution, "taps": subnet.taps}
    stages: dict[str, Sequence[int | str]] = {
        "depth": subnet.depths, "width": subnet.widths, "kernel": subnet.kernel_sizes, "norm": subnet.norms,
    }  # fmt: skip
    for name, values in stages.items():
        found |= {f"{name} {stage}": value for stage, value in enumerate(values, start=1)}
    return {**found, "calibration": trial.candidate.calibration}
