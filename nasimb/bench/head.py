"""Heads against scikit-learn on one problem, and the memory of heads at the size of ImageNet-LT and iNaturalist 2018.

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from nasimb.bench.base import Conditions, Figure, Skipped, made_with, ratio_figure
from nasimb.bench.made import GIB, long_tailed_labels, stream
from nasimb.bench.provenance import MADE, on_processor
from nasimb.errors import WorkError
from nasimb.heads.head import Head
from nasimb.heads.logistic import LogisticSpec
from nasimb.heads.ridge import RidgeSpec
from nasimb.heads.standardise import standardise
from nasimb.losses import parse_loss

SIZE, QUICK_SIZE = (12_000, 512, 100), (400, 16, 5)
"""N, D, K."""
PENALTIES = tuple(float(penalty) for penalty in np.logspace(-6, 2, 25))
LOSS = "inverse_frequency"
"""What scikit-learn calls class_weight="balanced"."""
CLOSE = 1e-4
MOST_ITERATIONS = 4096

IMAGENET_LT, INAT18 = (115_846, 1280, 1000), (437_513, 1280, 8142)
QUICK_LARGE = (1200, 16, 20)


@dataclass(frozen=True, eq=False)
class Problem:
    """Features that are standardised already, so that a penalty means the same to both sides.

    Attributes:
        penalty: nasimb's for scikit-learn's C = 1, which weighs a sum over images: 1 / N.
    """

    features_ND: Tensor
    labels_N: Tensor
    num_classes: int

    @property
    def penalty(self) -> float:
        """1 / (C N) with C = 1."""
        return 1.0 / len(self.labels_N)

    def objective(self, weight_KD: Tensor, bias_K: Tensor) -> float:
        """What both minimise: mean weighted cross entropy + penalty ||W||^2 / 2."""
        counts_K = torch.bincount(self.labels_N, minlength=self.num_classes)
        loss = parse_loss(LOSS).build(counts_K)
        logits_NK = torch.addmm(bias_K.double(), self.features_ND.double(), weight_KD.double().T)
        return float(loss(logits_NK, self.labels_N) + 0.5 * self.penalty * weight_KD.double().square().sum())

    @classmethod
    def make(cls, num_images: int, num_features: int, num_classes: int, seed: int) -> Problem:
        """Long-tailed classes around means, float32."""
        labels_N = long_tailed_labels(num_images, num_classes, torch.Generator().manual_seed(seed))
        features_ND = torch.cat([features_BD for features_BD, _ in stream(labels_N, num_features, seed)()])
        found = standardise(features_ND, labels_N, num_classes)
        return cls(((features_ND.double() - found.mean_D) / found.std_D).float(), labels_N, num_classes)

    def scikit_learn(self) -> LogisticRegression:
        """One fit as its users write it."""
        model = LogisticRegression(class_weight="balanced")
        return model.fit(self.features_ND.numpy(), self.labels_N.numpy())

    def logistic(self, iterations: int) -> Head:
        """nasimb's, stopped after so many iterations (or at the optimum)."""
        return self._fitted(LogisticSpec(**self._same, max_iterations=iterations, tolerance=0.0))

    def default_logistic(self) -> Head:
        """nasimb's, stopped where it stops by itself."""
        return self._fitted(LogisticSpec(**self._same))

    @property
    def _same(self) -> dict[str, Any]:
        return {"loss": parse_loss(LOSS), "penalties": (self.penalty,)}

    def _fitted(self, spec: LogisticSpec) -> Head:
        return spec.fit(self.features_ND, self.labels_N, self.num_classes, self.penalty)

    def objective_of(self, head: Head) -> float:
        """`objective` of a fitted head."""
        return self.objective(head.weight_KD, head.bias_K)

    @property
    def spectrum_exponent(self) -> float:
        """Slope of log eigenvalue over log rank, by least squares; what decides how slow logistic regression is."""
        eigenvalues_D = torch.linalg.eigvalsh(torch.cov(self.features_ND.double().T)).flip(0)
        rank_D = np.arange(1, len(eigenvalues_D) + 1)
        return float(np.polyfit(np.log(rank_D), np.log(eigenvalues_D.clamp(min=1e-12).numpy()), 1)[0])

    @property
    def size(self) -> str:
        """For a reader."""
        return f"N = {len(self.labels_N)}, D = {self.features_ND.shape[1]}, K = {self.num_classes}"


def ridge_over_sklearn(conditions: Conditions) -> Iterator[Figure]:
    """ridge_over_sklearn: a closed-form head with leave-one-out and 25 penalties / one scikit-learn fit."""
    problem = _problem(conditions)
    ridge = RidgeSpec(grid=PENALTIES)
    with _converging_as_it_may():
        seconds = conditions.compare(
            "ridge_over_sklearn",
            {
                "ridge": lambda: ridge.score(problem.features_ND, problem.labels_N, problem.num_classes),
                "sklearn": problem.scikit_learn,
            },
        )
    figure = ratio_figure(
        "ridge_over_sklearn", seconds, "ridge", "sklearn", at_most=0.25,
        against=f"ridge, leave-one-out, {len(PENALTIES)} penalties / one LogisticRegression(class_weight='balanced'); "
                f"{_spectrum(problem)}",
        detail={"size": problem.size, "spectrum_exponent": problem.spectrum_exponent},
    )  # fmt: skip
    yield from made_with([figure], **on_processor(MADE, "none"))


def logistic_over_sklearn(conditions: Conditions) -> Iterator[Figure]:
    """logistic_over_sklearn, logistic_default_over_sklearn: the logistic head over scikit-learn's time, stopped at
    scikit-learn's objective value, and as it stops by itself."""
    problem = _problem(conditions)
    with _converging_as_it_may():
        theirs = problem.scikit_learn()
        reached = problem.objective(torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_))
        iterations = fewest_iterations(
            lambda tried: _objective_after(problem, tried), reached * (1.0 + CLOSE), MOST_ITERATIONS
        )
        seconds = conditions.compare(
            "logistic_over_sklearn",
            {
                "logistic": lambda: problem.logistic(iterations),
                "default": problem.default_logistic,
                "sklearn": problem.scikit_learn,
            },
        )
    detail = {
        "size": problem.size, "spectrum_exponent": problem.spectrum_exponent, "sklearn_objective": reached,
        "sklearn_iterations": int(theirs.n_iter_[0]),
    }  # fmt: skip
    figures = _logistic_figures(problem, seconds, iterations, detail)
    yield from made_with(figures, **on_processor(MADE, "none"))


def _logistic_figures(
    problem: Problem, seconds: Mapping[str, list[float]], iterations: int, detail: Mapping[str, Any]
) -> Iterator[Figure]:
    theirs, by_default = detail["sklearn_objective"], problem.objective_of(problem.default_logistic())
    yield ratio_figure(
        "logistic_over_sklearn", seconds, "logistic", "sklearn", at_most=0.5,
        against="logistic head to scikit-learn's objective value (relative 1e-4), after a number of iterations that "
                f"was found beforehand, untimed / LogisticRegression; {_spectrum(problem)}",
        detail={**detail, "iterations": iterations, "objective": _objective_after(problem, iterations)},
    )  # fmt: skip
    yield ratio_figure(
        "logistic_default_over_sklearn", seconds, "default", "sklearn",
        against="logistic head with its own options, stopped where it stops by itself / LogisticRegression; "
                f"{_spectrum(problem)}",
        detail={**detail, "objective": by_default, "objective_relative_difference": by_default / theirs - 1.0},
    )  # fmt: skip


def fewest_iterations(objective_after: Callable[[int], float], wanted: float, most: int) -> int:
    """The fewest iterations (to about 5 %) after which the objective is no more than `wanted`.

    Raises:
        WorkError: not even `most` are enough.
    """
    low, high = 0, 8
    while objective_after(high) > wanted:
        low, high = high, 2 * high
        if low >= most:
            raise WorkError(
                "the logistic head must reach scikit-learn's objective", got=f"not after {low} iterations",
                do="Look at its tolerance and its line search.",
            )  # fmt: skip
    while high - low > max(1, low // 20):
        middle = (low + high) // 2
        low, high = (low, middle) if objective_after(middle) <= wanted else (middle, high)
    return high


def imagenet_lt_head(conditions: Conditions) -> Iterator[Figure]:
    """imagenet_lt_head_gib: peak memory of a full refit with balanced softmax."""
    size = _large(conditions, IMAGENET_LT)
    found = _measure("balanced_softmax", size, conditions)
    figure = Figure(
        "imagenet_lt_head_gib", found["peak_gib"], _sized("balanced softmax refit from a memory map", size),
        unit="GiB", at_most=4.0, detail=found,
    )  # fmt: skip
    yield from made_with([figure], **on_processor(MADE, "none"))


def inat18_head(conditions: Conditions) -> Iterator[Figure]:
    """inat18_head_gib: peak memory of closed-form heads from a stream, and how it grows with N."""
    yield from made_with(_closed_form_memory(conditions), **on_processor(MADE, "none"))


def _closed_form_memory(conditions: Conditions) -> Iterator[Figure]:
    num_images, *rest = size = _large(conditions, INAT18)
    for work in ("ridge", "gda"):
        name = "inat18_head_gib" if work == "ridge" else f"inat18_{work}_head_gib"
        found = _measure(work, size, conditions)
        fewer = _measure(work, (num_images // 4, rest[0], rest[1]), conditions)
        yield Figure(
            name, found["peak_gib"], _sized(f"{work} from a stream", size), unit="GiB", at_most=6.0,
            detail={**found, "peak_gib_at_quarter_of_n": fewer["peak_gib"], "quarter_seconds": fewer["seconds"]},
        )  # fmt: skip


def _measure(work: str, size: tuple[int, int, int], conditions: Conditions) -> dict[str, float]:
    """Run nasimb.bench.memory in a process of its own."""
    num_images, num_features, num_classes = size
    with tempfile.TemporaryDirectory() as folder:
        needed = 2 * num_images * num_features
        if work == "balanced_softmax" and shutil.disk_usage(folder).free < needed:
            raise Skipped(f"{needed / GIB:.1f} GiB of features do not fit on the disk of {folder}; set TMPDIR.")
        words = [
            sys.executable, "-m", "nasimb.bench.memory", work, "--images", num_images, "--features", num_features,
            "--classes", num_classes, "--folder", Path(folder), "--threads", torch.get_num_threads(),
        ]  # fmt: skip
        conditions.tick(f"{work}, {num_images} images", 0.0)
        process = subprocess.Popen(
            [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            out, err = _communicate(process, conditions, f"{work}, {num_images} images")
        finally:
            process.kill()
    if process.returncode:
        last = (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise WorkError(f"the {work} head must fit {num_images} images", got=last, do="Give it more memory.")
    found: dict[str, float] = json.loads(out)
    return found


def _communicate(process: subprocess.Popen[str], conditions: Conditions, what: str) -> tuple[str, str]:
    """Wait, and obey a signal meanwhile."""
    while True:
        try:
            return process.communicate(timeout=2.0)
        except subprocess.TimeoutExpired:
            conditions.tick(what, 0.5)


def _large(conditions: Conditions, size: tuple[int, int, int]) -> tuple[int, int, int]:
    if not conditions.large:
        raise Skipped("It takes minutes and a few GiB of memory and disk: give --large.")
    return QUICK_LARGE if conditions.quick else size


def _sized(what: str, size: tuple[int, int, int]) -> str:
    num_images, num_features, num_classes = size
    return f"{what}, N = {num_images}, D = {num_features}, K = {num_classes}"


def _problem(conditions: Conditions) -> Problem:
    return Problem.make(*(QUICK_SIZE if conditions.quick else SIZE), seed=conditions.config.seed)


def _objective_after(problem: Problem, iterations: int) -> float:
    return problem.objective_of(problem.logistic(iterations))


def _spectrum(problem: Problem) -> str:
    return f"made features, eigenvalues as rank^{problem.spectrum_exponent:.1f} (measured on real ones: rank^-2.2)"


@contextmanager
def _converging_as_it_may() -> Iterator[None]:
    """scikit-learn's default of 100 iterations is what its users get: no warning about it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
