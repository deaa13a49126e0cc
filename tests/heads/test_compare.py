"""Heads of every kind by one rule: what is reported is what a head fitted without the image predicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nasimb.errors import InputError
from nasimb.heads import HEADS, ClosedFormSpec, LogisticSpec, folds, gda, logistic, parse_head
from nasimb.heads.compare import LOGIT_TAUS, NORM_TAUS, HeldOut, by_folds, by_holdout, fit_head, label, named
from nasimb.heads.folds import stratified_folds
from nasimb.heads.posthoc import logit_adjusted, tau_normalised
from nasimb.losses import LOSSES
from nasimb.metrics import NO_PREDICTION, measure

COUNTS_K = (24, 8, 4)
PENALTIES = (0.1, 0.01)


def blobs(counts_K: tuple[int, ...] = COUNTS_K, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping classes, so that heads err and settings differ."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.repeat_interleave(torch.arange(len(counts_K)), torch.tensor(counts_K))
    centres_KD = torch.randn(len(counts_K), 6, generator=generator)
    return centres_KD[labels_N] + torch.randn(len(labels_N), 6, generator=generator), labels_N


def folds_of(head: str | dict[str, object], features_ND: Tensor, labels_N: Tensor) -> list[HeldOut]:
    return by_folds(head, features_ND, labels_N, 3, penalties=PENALTIES, folds=3, seed=1)


@pytest.mark.parametrize("head", ["balanced_softmax", "ridge", "gda"])
def test_no_image_is_predicted_by_a_head_that_saw_it(head: str) -> None:
    features_ND, labels_N = blobs()
    fold_N = torch.from_numpy(stratified_folds(labels_N.numpy(), 3, 1))
    for found in folds_of(head, features_ND, labels_N):
        for fold in range(3):
            kept, left = fold_N != fold, fold_N == fold
            refitted = fit_head(head, features_ND[kept], labels_N[kept], 3, found.setting, PENALTIES)
            assert torch.equal(refitted.logits(features_ND[left]).argmax(1), found.predicted_M[left])


def test_a_loss_that_leaves_the_imbalance_in_brings_its_corrections() -> None:
    features_ND, labels_N = blobs()
    found = folds_of("cross_entropy", features_ND, labels_N)
    plain = [one for one in found if one.head == "cross_entropy"]
    assert {one.setting for one in plain} == set(PENALTIES)
    corrected = [one.head for one in found if isinstance(one.head, dict)]
    assert len(corrected) == len(PENALTIES) * (len(LOGIT_TAUS) + len(NORM_TAUS))
    assert {"name": "cross_entropy", "posthoc": "logit_adjustment", "tau": 1.0} in corrected
    assert {"name": "cross_entropy", "posthoc": "tau_normalisation", "tau": 1.0} in corrected


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "cross_entropy"])
def test_only_losses_that_do_not_balance_are_corrected(loss: str) -> None:
    features_ND, labels_N = blobs()
    spec = LOSSES[loss]()  # type: ignore[call-arg]
    found = by_folds(loss, features_ND, labels_N, 3, penalties=(0.1,), folds=2, seed=0)
    assert (len(found) > 1) is (not spec.balances and not spec.cosine)
    assert found[0].head == loss


def test_a_correction_moves_images_to_the_tail() -> None:
    features_ND, labels_N = blobs()
    found = [one for one in folds_of("cross_entropy", features_ND, labels_N) if one.setting == 0.1]
    shares = [
        int((one.predicted_M == 2).sum())
        for one in found
        if isinstance(one.head, dict) and one.head["posthoc"] == "logit_adjustment"
    ]
    assert shares == sorted(shares)
    assert shares[-1] > int((found[0].predicted_M == 2).sum())


@pytest.mark.parametrize("head", ["balanced_softmax", "cross_entropy", "ridge", "gda", "ldam"])
def test_a_hold_out_sees_the_head_of_all_fitted_images(head: str) -> None:
    features_ND, labels_N = blobs()
    others_MD, others_M = blobs(seed=0)
    found = by_holdout(head, features_ND, labels_N, others_MD + 0.1, others_M, 3, penalties=PENALTIES)
    for one in found:
        refitted = fit_head(one.head, features_ND, labels_N, 3, one.setting, PENALTIES)
        logits_MK = refitted.logits(others_MD + 0.1)
        assert torch.equal(logits_MK.argmax(1), one.predicted_M)
        losses_M = -logits_MK.double().log_softmax(1)[torch.arange(len(others_M)), others_M]
        by_class = [float(losses_M[others_M == k].mean()) for k in range(3)]
        assert one.balanced_loss == pytest.approx(np.mean(by_class), rel=1e-5)


def test_a_named_correction_is_that_of_posthoc() -> None:
    features_ND, labels_N = blobs()
    plain = fit_head("cross_entropy", features_ND, labels_N, 3, 0.01, PENALTIES)
    adjusted = fit_head(
        {"name": "cross_entropy", "posthoc": "logit_adjustment", "tau": 0.5}, features_ND, labels_N, 3, 0.01, PENALTIES
    )
    torch.testing.assert_close(adjusted.bias_K, logit_adjusted(plain, torch.tensor(COUNTS_K), 0.5).bias_K)
    normalised = fit_head(
        {"name": "cross_entropy", "posthoc": "tau_normalisation", "tau": 1.0}, features_ND, labels_N, 3, 0.01, PENALTIES
    )
    torch.testing.assert_close(normalised.weight_KD, tau_normalised(plain, 1.0).weight_KD)


def test_the_tau_of_a_loss_is_not_that_of_a_correction() -> None:
    features_ND, labels_N = blobs()
    mild, strong = (
        fit_head({"name": "logit_adjusted", "tau": tau}, features_ND, labels_N, 3, 0.01, PENALTIES)
        for tau in (0.1, 2.0)
    )
    tail = [int((head.logits(features_ND).argmax(1) == 2).sum()) for head in (mild, strong)]
    assert tail[0] < tail[1]


@pytest.mark.parametrize("name", HEADS)
def test_a_closed_form_takes_the_setting_that_does_best_left_one_out(name: str) -> None:
    features_ND, labels_N = blobs()
    (found,) = folds_of(name, features_ND, labels_N)
    counts_K = torch.tensor(COUNTS_K)
    scores = {
        one.setting: measure(one.predicted_N, labels_N, counts_K).balanced_accuracy
        for one in HEADS[name]().score(features_ND, labels_N, 3)  # type: ignore[call-arg]
    }
    assert scores[found.setting] == max(scores.values())


@pytest.mark.parametrize("head", ["balanced_softmax", "ridge", "gda"])
def test_the_only_image_of_a_class_gets_no_prediction(head: str) -> None:
    features_ND, labels_N = blobs((10, 6, 1))
    for found in folds_of(head, features_ND, labels_N):
        assert found.predicted_M[-1] == NO_PREDICTION
        assert (found.predicted_M[:-1] != NO_PREDICTION).all()
        assert np.isfinite(found.balanced_loss)


def test_the_same_seed_gives_the_same() -> None:
    features_ND, labels_N = blobs()
    for a, b in zip(*(folds_of("cross_entropy", features_ND, labels_N) for _ in range(2)), strict=True):
        assert torch.equal(a.predicted_M, b.predicted_M)
        assert (a.head, a.setting, a.balanced_loss) == (b.head, b.setting, b.balanced_loss)


def test_penalties_are_those_given() -> None:
    features_ND, labels_N = blobs()
    spec = LogisticSpec(penalties=PENALTIES)
    found = folds_of("balanced_softmax", features_ND, labels_N)
    assert [one.setting for one in found] == list(spec.grid)


@pytest.mark.parametrize(
    "head", ["svm", {"name": "focall"}, {"name": "focal", "gama": 2.0}, {"name": "gda", "tau": 1.0}]
)
def test_an_unknown_head_is_an_input_error(head: str | dict[str, object]) -> None:
    features_ND, labels_N = blobs()
    with pytest.raises(InputError):
        folds_of(head, features_ND, labels_N)


@pytest.mark.parametrize("head", ["ridge", "gda"])
def test_closed_forms_pause_between_fits_too(head: str) -> None:
    features_ND, labels_N = blobs()
    calls: list[None] = []
    by_folds(head, features_ND, labels_N, 3, penalties=PENALTIES, folds=3, seed=1, between=lambda: calls.append(None))
    assert len(calls) == 1 + 3


def test_a_hold_out_walks_down_the_penalties_once(monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, labels_N = blobs()
    fitted: list[float] = []
    original = logistic.minimise

    def counted(prepared: object, phases: object, penalty: float, **options: object) -> object:
        fitted.append(penalty)
        return original(prepared, phases, penalty, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(logistic, "minimise", counted)
    by_holdout("focal", features_ND, labels_N, features_ND, labels_N, 3, penalties=(0.1, 0.01, 0.001))
    assert fitted == [0.1, 0.01, 0.001]


def test_what_comes_between_fits_can_end_them() -> None:
    features_ND, labels_N = blobs()
    calls = 0

    def between() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        by_folds("cross_entropy", features_ND, labels_N, 3, penalties=PENALTIES, folds=3, seed=1, between=between)
    assert calls == 3


OPTIONS = {"name": "gda", "class_weighting": "effective_number", "beta": 0.9, "taus": [-1.0, 0.0, 1.0], "grid": [0.1]}


def test_the_tau_that_was_chosen_is_refitted() -> None:
    features_ND, labels_N = blobs()
    spec, counts_K = parse_head(OPTIONS), torch.tensor(COUNTS_K)
    (found,) = folds_of(OPTIONS, features_ND, labels_N)  # type: ignore[arg-type]
    assert isinstance(found.head, dict)
    (tau,) = found.head["taus"]
    scores = {
        one.tau: measure(one.predicted_N, labels_N, counts_K).balanced_accuracy
        for one in spec.score(features_ND, labels_N, 3)
    }
    assert scores[tau] == max(scores.values()) > min(scores.values())
    fold_N = torch.from_numpy(stratified_folds(labels_N.numpy(), 3, 1))
    for fold in range(3):
        kept, left = fold_N != fold, fold_N == fold
        refitted = fit_head(found.head, features_ND[kept], labels_N[kept], 3, 0.1, PENALTIES)
        assert torch.equal(refitted.logits(features_ND[left]).argmax(1), found.predicted_M[left])


def test_a_hold_out_tells_every_tau_from_one_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, labels_N = blobs()
    solved: list[object] = []
    solve = gda.GdaSpec.solve
    monkeypatch.setattr(gda.GdaSpec, "solve", lambda spec, moments: solved.append(spec) or solve(spec, moments))
    head = {**OPTIONS, "grid": [0.1, 0.5]}
    found = by_holdout(head, features_ND, labels_N, features_ND + 0.3, labels_N, 3, penalties=PENALTIES)
    assert len(solved) == 1
    heads = [one.head for one in found]
    assert [(one.setting, one.head["taus"]) for one in found if isinstance(one.head, dict)] == [
        (setting, [tau]) for setting in (0.1, 0.5) for tau in (-1.0, 0.0, 1.0)
    ]
    for one in found:
        refitted = fit_head(one.head, features_ND, labels_N, 3, one.setting, PENALTIES)
        expected = parse_head(OPTIONS).fit(
            features_ND,
            labels_N,
            3,
            one.setting,
            one.head["taus"][0],  # type: ignore[call-arg,index]
        )
        torch.testing.assert_close(refitted.bias_K, expected.bias_K)
        assert torch.equal(refitted.logits(features_ND + 0.3).argmax(1), one.predicted_M)
    assert len({tuple(one.predicted_M.tolist()) for one in found}) > 1
    assert label(heads[0]) == "gda + logit_adjustment(-1)"
    assert label(heads[1]) == "gda"


BETA = {key: OPTIONS[key] for key in ("name", "class_weighting", "beta")}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (HEADS["gda"](), "gda"),  # type: ignore[call-arg]
        (gda.GdaSpec(grid=(0.5,)), "gda"),
        (parse_head(OPTIONS).chosen(1.0), {**BETA, "taus": [1.0]}),
        (parse_head(OPTIONS).chosen(0.0), BETA),
    ],
)
def test_a_closed_form_has_a_name_that_refits_it(spec: ClosedFormSpec, expected: object) -> None:
    assert named(spec) == expected
    again = parse_head(named(spec))
    assert again.model_copy(update={"grid": spec.grid}) == spec


def test_a_hold_out_is_predicted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, labels_N = blobs()
    whole, parts = [], []
    for found, rows in ((whole, 4096), (parts, 7)):
        monkeypatch.setattr(folds, "ROWS", rows)
        found += by_holdout("gda", features_ND, labels_N, features_ND, labels_N, 3, penalties=PENALTIES)
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one.predicted_M, other.predicted_M)
        assert one.balanced_loss == pytest.approx(other.balanced_loss, rel=1e-12)
