"""SGD on a head: the same through the network as on its features, and it learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasimb.bench import sgd
from nasimb.bench.base import Conditions
from nasimb.bench.rows import Rows
from nasimb.bench.testbed import features_for_truth, load_testbed
from nasimb.search.trial import Candidate


def test_an_epoch_through_the_network_is_one_over_its_features(quick: Callable[..., Conditions]) -> None:
    testbed = load_testbed(quick(), content=True)
    candidate = Candidate(testbed.space.largest(), testbed.calibration)
    features_ND, _ = features_for_truth(testbed, candidate)
    images = testbed.task.target
    through, uneven = (sgd.sgd_through_network(testbed, candidate, at_a_time) for at_a_time in (512, 7))
    cached = sgd.train_head(
        sgd._cached(features_ND, torch.arange(len(images))), images.labels_N, images.num_classes,
        features_ND.shape[1], torch.device("cpu"), testbed.seed,
    )  # fmt: skip
    torch.testing.assert_close(through(features_ND), cached(features_ND), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(uneven(features_ND), cached(features_ND), rtol=1e-3, atol=1e-3)


@given(st.lists(st.integers(1, 9), max_size=8), st.integers(1, 7))
def test_regrouped_rows_are_the_same_in_full_batches(lengths: list[int], size: int) -> None:
    rows_N1 = torch.arange(sum(lengths))[:, None]
    found = list(sgd.regrouped(torch.split(rows_N1, lengths), size))
    assert [batch.tolist() for batch in found] == [batch.tolist() for batch in torch.split(rows_N1, size) if len(batch)]


def test_the_network_of_sgd_has_the_number_format_of_the_scoring(quick: Callable[..., Conditions]) -> None:
    testbed = load_testbed(quick(), content=True)
    low = replace(testbed, scoring=replace(testbed.scoring, dtype=torch.bfloat16))
    candidate = Candidate(testbed.space.largest(), testbed.calibration)
    formats: list[torch.dtype] = []

    def note(module: torch.nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Conv2d):
            formats.append(made.dtype)

    with torch.nn.modules.module.register_module_forward_hook(note):
        head = sgd.sgd_through_network(low, candidate, 64)
    assert formats[-1] == torch.bfloat16
    assert next(head.parameters()).dtype == torch.float32


def test_a_tau_that_is_not_there_says_why() -> None:
    rows = Rows(None, ("number",), "abc")
    for number in range(3):
        rows.append({"number": number, "score": 0.5, "sgd": number / 10, "test": number / 10})
    found = {figure.figure: figure for figure in sgd.tau_figures(rows)}
    assert (found["tau_score"].value, found["tau_sgd"].value) == (None, pytest.approx(1.0))
    assert "equal" in found["tau_score"].reason
    assert found["tau_score_minus_sgd"].reason
    assert found["tau_score_minus_sgd"].met is None


def test_it_learns_what_a_linear_head_can_and_leaves_torchs_global_generator_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(3).repeat_interleave(torch.tensor([200, 60, 15]))
    features_ND = 3.0 * torch.eye(3)[labels_N] + torch.randn(len(labels_N), 3, generator=generator)
    before = torch.get_rng_state()
    head = sgd.train_head(sgd._cached(features_ND, torch.arange(275)), labels_N, 3, 3, torch.device("cpu"), 0)
    assert torch.equal(torch.get_rng_state(), before)
    predicted_N = head(features_ND).argmax(1)
    assert min(float((predicted_N[labels_N == k] == k).float().mean()) for k in range(3)) > 0.8


def test_taus_compare_both_with_the_truth() -> None:
    rows = Rows(None, ("number",), "abc")
    for number, (score, other, test) in enumerate([(0.1, 0.3, 0.5), (0.2, 0.2, 0.6), (0.3, 0.1, 0.7)]):
        rows.append({"number": number, "score": score, "sgd": other, "test": test})
    found = {figure.figure: figure for figure in sgd.tau_figures(rows)}
    assert found["tau_score"].value == pytest.approx(1.0)
    assert found["tau_sgd"].value == pytest.approx(-1.0)
    assert found["tau_score_minus_sgd"].value == pytest.approx(2.0)
    assert found["tau_score_minus_sgd"].met is True


def test_subnets_already_measured_are_not_measured_again(
    quick: Callable[..., Conditions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions = quick(folder=tmp_path / "out")
    first = list(sgd.tau_over_sgd(conditions))
    monkeypatch.setattr(sgd, "features_for_truth", lambda *given: pytest.fail("measured again"))
    assert list(sgd.tau_over_sgd(conditions)) == first
