"""Heads against scikit-learn: the same problem on both sides, the fewest iterations, memory in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from nasimb.bench import head, made
from nasimb.bench.base import Conditions, Figure, Skipped
from nasimb.bench.provenance import device_name
from nasimb.errors import WorkError


def by_name(figures) -> dict[str, Figure]:
    return {figure.figure: figure for figure in figures}


def test_both_sides_minimise_the_same_objective() -> None:
    problem = head.Problem.make(300, 6, 4, seed=0)
    theirs = LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=5000)
    theirs.fit(problem.features_ND.double().numpy(), problem.labels_N.numpy())
    optimum = problem.objective(torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_))
    ours = problem.logistic(1000)
    assert problem.objective(ours.weight_KD, ours.bias_K) == pytest.approx(optimum, rel=1e-6)
    assert problem.objective(torch.zeros(4, 6), torch.zeros(4)) == pytest.approx(np.log(4))
    assert problem.objective(ours.weight_KD + 0.1, ours.bias_K) > optimum


@pytest.mark.parametrize("needed", [1, 5, 8, 9, 100, 1000])
def test_the_fewest_iterations_are_found_to_five_per_cent(needed: int) -> None:
    tried: list[int] = []

    def objective_after(iterations: int) -> float:
        tried.append(iterations)
        return 1.0 if iterations >= needed else 2.0

    found = head.fewest_iterations(objective_after, 1.5, 4096)
    assert needed <= found <= max(needed + 1, 1.06 * needed)
    assert found in tried


def test_an_objective_out_of_reach_is_said() -> None:
    with pytest.raises(WorkError, match="not after 64 iterations"):
        head.fewest_iterations(lambda iterations: 2.0, 1.0, 64)


def test_figures_on_small_sizes(quick: Callable[..., Conditions]) -> None:
    import time

    conditions = quick(clock=time.perf_counter)
    ridge = by_name(head.ridge_over_sklearn(conditions))["ridge_over_sklearn"]
    assert ridge.repetitions == 2
    assert ridge.value > 0
    found = by_name(head.logistic_over_sklearn(conditions))
    logistic, default = found["logistic_over_sklearn"], found["logistic_default_over_sklearn"]
    assert logistic.detail["objective"] <= logistic.detail["sklearn_objective"] * (1 + 1e-4)
    assert "found beforehand" in logistic.against
    medians = default.detail["default_seconds"] / default.detail["sklearn_seconds"]
    # Of two turns the medians' ratio is a mediant: between the two ratios, whose quartiles the figure has.
    reach = (default.high - default.low) / 2
    assert default.low - reach - 1e-9 <= medians <= default.high + reach + 1e-9
    difference = default.detail["objective"] / default.detail["sklearn_objective"] - 1
    assert default.detail["objective_relative_difference"] == pytest.approx(difference)
    assert abs(difference) < 0.05
    for figure in (ridge, logistic, default):
        assert "made features, eigenvalues as rank^-" in figure.against
        assert (figure.provenance["data"], figure.provenance["supernet"]) == ("made", "none")
        assert figure.provenance["device"] == device_name(torch.device("cpu"))


def test_the_spectrum_is_that_of_the_features() -> None:
    problem = head.Problem.make(2000, 30, 4, seed=0)
    features_ND, rank = problem.features_ND.double().numpy(), np.arange(1, 31)
    values = np.linalg.svd(features_ND - features_ND.mean(0), compute_uv=False) ** 2
    design = np.stack([np.log(rank), np.ones(30)], axis=1)
    slope = np.linalg.lstsq(design, np.log(values), rcond=None)[0][0]
    assert problem.spectrum_exponent == pytest.approx(slope, rel=1e-6)
    assert problem.spectrum_exponent < -1


def test_large_sizes_are_for_those_who_ask(quick: Callable[..., Conditions]) -> None:
    with pytest.raises(Skipped, match="--large"):
        list(head.imagenet_lt_head(quick()))
    with pytest.raises(Skipped, match="--large"):
        list(head.inat18_head(quick()))


def test_memory_is_that_of_a_process_of_its_own(quick: Callable[..., Conditions]) -> None:
    ballast = torch.ones(2**28, dtype=torch.uint8)  # of this process: must not count
    figure = by_name(head.imagenet_lt_head(quick(large=True)))["imagenet_lt_head_gib"]
    del ballast
    assert 0.05 < figure.detail["started_gib"] <= figure.value < 1.5
    assert figure.unit == "GiB"


@pytest.mark.slow
def test_closed_form_heads_are_measured_at_two_sizes(quick: Callable[..., Conditions]) -> None:
    found = by_name(head.inat18_head(quick(large=True)))
    assert set(found) == {"inat18_head_gib", "inat18_gda_head_gib"}
    assert all(figure.detail["peak_gib_at_quarter_of_n"] > 0 for figure in found.values())


def test_a_failed_process_is_a_sentence(quick: Callable[..., Conditions], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head.sys, "executable", "/bin/false")
    with pytest.raises(WorkError, match="balanced_softmax head must fit 1200 images; got exit code 1"):
        list(head.imagenet_lt_head(quick(large=True)))


def test_made_features_are_the_same_in_every_pass_and_long_tailed(tmp_path: Path) -> None:
    labels_N = made.long_tailed_labels(5000, 20, torch.Generator().manual_seed(0))
    counts_K = torch.bincount(labels_N)
    assert len(labels_N) == 5000
    assert len(counts_K) == 20
    assert int(counts_K.min()) >= 2
    assert int(counts_K[0]) > 20 * int(counts_K[-1])
    chunks = made.stream(labels_N, 8, seed=1)
    first, second = (torch.cat([features_BD for features_BD, _ in chunks()]) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.cat([labels_B for _, labels_B in chunks()]), labels_N)
    other = torch.cat([features_BD for features_BD, _ in made.stream(labels_N, 8, seed=2)()])
    assert not torch.equal(first, other)


def test_features_on_disk_are_those_of_the_stream(tmp_path: Path) -> None:
    memory = pytest.importorskip("nasimb.bench.memory")
    labels_N = made.long_tailed_labels(3000, 5, torch.Generator().manual_seed(0))
    chunks = made.stream(labels_N, 4, seed=1)
    stored_ND = memory.on_disk(chunks, 3000, 4, tmp_path)
    assert stored_ND.dtype == torch.float16
    assert torch.equal(stored_ND, torch.cat([features_BD for features_BD, _ in chunks()]).half())
