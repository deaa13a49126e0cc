"""From a candidate to its score: frozen, deterministic, honest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from made_scoring import images, made_scoring

from nasimb.errors import WorkError
from nasimb.heads import HEADS, parse_head
from nasimb.heads.folds import balanced_log_loss
from nasimb.search.candidate import Features, Scoring, features_of, judge_part, rank, statistics_of
from nasimb.search.engine import evaluate_batch
from nasimb.search.screening import Screen
from nasimb.search.study import Proposal
from nasimb.search.trial import FAILED, FINISHED, Candidate
from nasimb.space import SearchSpace, Stage

SPACE = SearchSpace(
    name="tiny", backbone="resnet", stem_width=4, resolutions=(6, 8), taps=(1, 2),
    stages=(
        Stage(depths=(1, 2), widths=(4, 6), kernel_sizes=(3,), norms=("bn", "nbn")),
        Stage(depths=(1,), widths=(6, 40), kernel_sizes=(3, 5), norms=("bn",), stride=2),
    ),
)  # fmt: skip
COUNTS = (14, 7, 3, 1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_scoring(**changes: Any) -> Scoring:
    return made_scoring(SPACE, images(COUNTS, 1), **changes)


def candidates(number: int = 6) -> list[Candidate]:
    rng = np.random.default_rng(0)
    return [Candidate(SPACE.sample(rng), "source") for _ in range(number)]


def score(scoring: Scoring, candidate: Candidate) -> Any:
    macs, params = scoring.cost_of(candidate.subnet)
    proposal = Proposal(0, "random", candidate, macs, params)
    return evaluate_batch(scoring, [proposal], [], seed=0, clock=lambda: 0.0)[0]


def test_the_order_of_candidates_changes_no_score() -> None:
    forwards = {candidate: score(make_scoring(), candidate) for candidate in candidates()}
    scoring = make_scoring()
    backwards = {candidate: score(scoring, candidate) for candidate in reversed(candidates())}
    again = {candidate: score(scoring, candidate) for candidate in candidates()}
    assert forwards == backwards == again
    assert all(trial.state == FINISHED for trial in forwards.values())


def test_the_composition_of_batches_changes_no_feature() -> None:
    candidate = Candidate(SPACE.largest(), "source")
    whole, parts = make_scoring(), make_scoring(batch_size=5)
    statistics = statistics_of(whole, candidate)
    reference_ND = features_of(whole, candidate, statistics, whole.fitted)
    torch.testing.assert_close(features_of(parts, candidate, statistics, parts.fitted), reference_ND)
    backwards = whole.fitted.subset(torch.arange(len(whole.fitted)).flip(0))
    torch.testing.assert_close(features_of(whole, candidate, statistics, backwards).flip(0), reference_ND)


def test_scoring_leaves_the_super_network_bit_identical() -> None:
    scoring = make_scoring()
    before = {name: tensor.clone() for name, tensor in scoring.supernet.state_dict().items()}
    for candidate in candidates():
        score(scoring, candidate)
    after = scoring.supernet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.grad is not None for parameter in scoring.supernet.parameters())


def test_more_features_than_images_is_no_problem() -> None:
    candidate = Candidate(SPACE.largest(), "source")
    scoring = make_scoring()
    assert scoring.supernet.feature_dim(candidate.subnet) > len(scoring.fitted)
    trial = score(scoring, candidate)
    assert trial.state == FINISHED
    assert 0.0 <= trial.score <= 1.0


def test_leave_one_out_uses_every_image_but_the_only_one_of_a_class() -> None:
    ranking = rank(make_scoring(), candidates(1)[0])
    assert ranking.metrics.images == sum(COUNTS) - 1  # one class has a single image, which cannot be left out
    assert ranking.metrics.absent_classes == (3,)


def test_a_hold_out_fits_on_one_part_and_ranks_on_the_other_alone() -> None:
    held_out = images((6, 5, 4, 3), 9)
    scoring = make_scoring(validation=held_out)
    candidate = candidates(1)[0]
    ranking = rank(scoring, candidate)
    assert ranking.metrics.images == len(held_out)
    # Nonsense labels on the hold-out move the score; which images are in it is all that it depends on.
    rolled = replace(held_out, labels_N=held_out.labels_N.roll(7))
    assert rank(replace(scoring, validation=rolled), candidate).value < ranking.value
    # An oracle: the head fitted on `fitted`, applied to the hold-out.
    statistics = statistics_of(scoring, candidate)
    fitted_ND = features_of(scoring, candidate, statistics, scoring.fitted)
    held_MD = features_of(scoring, candidate, statistics, held_out)
    head = HEADS[ranking.head]().fit(fitted_ND, scoring.fitted.labels_N, 4, ranking.setting)
    right_M = head.logits(held_MD).argmax(1) == held_out.labels_N
    recalls = [float(right_M[held_out.labels_N == label].float().mean()) for label in range(4)]
    assert ranking.value == pytest.approx(sum(recalls) / 4)


def test_a_tau_travels_from_the_ranking_to_the_refit() -> None:
    candidate = candidates(1)[0]
    heads = (parse_head({"name": "gda", "class_weighting": "inverse_frequency", "taus": [2.0], "grid": [0.1]}),)
    for validation in (None, images((6, 5, 4, 3), 9)):
        scoring = make_scoring(heads=heads, validation=validation)
        ranking = rank(scoring, candidate)
        assert (ranking.head, ranking.setting, ranking.tau) == ("gda", 0.1, 2.0)
        assert score(scoring, candidate).tau == 2.0


def test_a_part_of_the_images_keeps_the_objective_of_all_on_a_hold_out() -> None:
    held_out = images((6, 5, 4, 3), 9)
    heads = (parse_head({"name": "gda", "class_weighting": "inverse_sqrt", "grid": [0.1]}),)
    scoring = make_scoring(heads=heads, validation=held_out)
    screen = Screen(torch.tensor([0, 1, 2, 14, 15, 16, 21, 22, 23, 24]), torch.arange(0, 18, 2), eta=8)
    part_M = scoring.fitted.labels_N[screen.fitted_M]
    generator = torch.Generator().manual_seed(0)
    fitted_ND, held_MD = torch.randn(len(part_M), 3, generator=generator), torch.randn(9, 3, generator=generator)
    ranking = judge_part(scoring, screen, Features(fitted_ND, held_MD))
    whole_K = scoring.fitted.class_counts_K
    ((_, head),) = heads[0].fit_grid(fitted_ND, part_M, 4, images_K=whole_K)
    loss = balanced_log_loss(head.logits(held_MD), held_out.labels_N[::2])
    assert ranking.balanced_loss == pytest.approx(loss)
    ((_, plain),) = heads[0].fit_grid(fitted_ND, part_M, 4)
    assert (plain.weight_KD - head.weight_KD).abs().max() > 1e-3


def test_features_that_are_not_finite_fail_the_trial_with_a_reason() -> None:
    scoring = make_scoring()
    with torch.no_grad():
        next(parameter for parameter in scoring.supernet.parameters() if parameter.ndim == 4).fill_(float("nan"))
    candidate = candidates(1)[0]
    trial = score(scoring, candidate)
    assert trial.state == FAILED
    assert trial.score is None
    assert "must be finite" in trial.reason
    assert "\n" not in trial.reason
    with pytest.raises(WorkError, match="NaN or infinity for 25 of 25 images"):
        rank(scoring, candidate)


def test_only_classes_that_can_be_held_out_are_judged() -> None:
    assert make_scoring().judged_counts_K.tolist() == [14, 7, 3, 0]
    assert make_scoring(validation=images((2, 1, 0, 1), 5)).judged_counts_K.tolist() == [14, 7, 0, 1]


def test_the_cost_includes_the_linear_head() -> None:
    scoring, subnet = make_scoring(), SPACE.smallest()
    macs, params = scoring.cost_of(subnet)
    backbone = scoring.supernet.extract(subnet, statistics_of(scoring, Candidate(subnet, "source")))
    features = scoring.supernet.feature_dim(subnet)
    assert params == sum(parameter.numel() for parameter in backbone.parameters()) + (features + 1) * 4
    assert macs > features * 4
