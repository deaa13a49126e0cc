"""The logistic head against scikit-learn and an objective written out for SciPy; folds against plain refits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from nasimb.errors import InputError, ResumeError, WorkError
from nasimb.heads import minimise as minimise_module
from nasimb.heads import standardise as standardise_module
from nasimb.heads.checkpoint import Checkpoint
from nasimb.heads.features import mapped
from nasimb.heads.head import CosineHead
from nasimb.heads.logistic import LogisticSpec
from nasimb.heads.minimise import minimise, prepare
from nasimb.heads.standardise import standardise
from nasimb.losses import LOSSES, parse_loss
from nasimb.losses.base import Phase

COUNTS = [90, 40, 12, 4]


def features_and_labels(counts: list[int], dimension: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels_N = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    centres_KD = rng.normal(size=(len(counts), dimension))
    features_ND = (centres_KD[labels_N] + rng.normal(size=(len(labels_N), dimension))) * rng.uniform(0.1, 4, dimension)
    return torch.tensor(features_ND + 2.0), torch.tensor(labels_N)


def standardised_by_hand(features_ND: torch.Tensor, labels_N: torch.Tensor) -> np.ndarray:
    x_ND, y_N = features_ND.numpy(), labels_N.numpy()
    shares_N = 1 / (len(np.unique(y_N)) * np.bincount(y_N)[y_N])
    mean_D = shares_N @ x_ND
    return (x_ND - mean_D) / np.sqrt(shares_N @ (x_ND - mean_D) ** 2)


def exactly(loss: object, **options: object) -> LogisticSpec:
    return LogisticSpec(loss=loss, tolerance=1e-14, max_iterations=2000, **options)  # type: ignore[arg-type]


def centred(logits_NK: np.ndarray) -> np.ndarray:
    """Softmax does not see what all classes share."""
    return logits_NK - logits_NK.mean(axis=1, keepdims=True)


@pytest.mark.parametrize(("loss", "class_weight"), [("cross_entropy", None), ("inverse_frequency", "balanced")])
@pytest.mark.parametrize("penalty", [1e-3, 0.1])
def test_reaches_scikit_learns_optimum(loss: str, class_weight: str | None, penalty: float) -> None:
    features_ND, labels_N = features_and_labels(COUNTS)
    x_ND = standardised_by_hand(features_ND, labels_N)
    theirs = LogisticRegression(C=1 / (penalty * len(x_ND)), class_weight=class_weight, tol=1e-10, max_iter=10000).fit(
        x_ND, labels_N.numpy()
    )
    head = exactly(loss).fit(features_ND, labels_N, 4, penalty)
    np.testing.assert_allclose((head.weight_KD * head.std_D).numpy(), theirs.coef_, atol=1e-4)
    ours_NK = centred(head.logits(features_ND).numpy())
    np.testing.assert_allclose(ours_NK, centred(theirs.decision_function(x_ND)), atol=1e-4)


def balanced_softmax_by_scipy(x_ND: np.ndarray, y_N: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    counts_K, dimension = np.bincount(y_N), x_ND.shape[1]
    onehot_NK = np.eye(len(counts_K))[y_N]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight_KD, bias_K = flat[: -len(counts_K)].reshape(-1, dimension), flat[-len(counts_K) :]
        log_p_NK = log_softmax(x_ND @ weight_KD.T + bias_K + np.log(counts_K), axis=1)
        error_NK = (np.exp(log_p_NK) - onehot_NK) / len(y_N)
        gradient = np.concatenate([(error_NK.T @ x_ND + penalty * weight_KD).ravel(), error_NK.sum(0)])
        return -(log_p_NK * onehot_NK).sum() / len(y_N) + penalty / 2 * (weight_KD**2).sum(), gradient

    start = np.zeros(len(counts_K) * (dimension + 1))
    found = scipy_minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000})
    logits_NK = x_ND @ found.x[: -len(counts_K)].reshape(-1, dimension).T + found.x[-len(counts_K) :]
    return logits_NK, float(found.fun)


def test_balanced_softmax_reaches_the_optimum_of_its_objective() -> None:
    features_ND, labels_N = features_and_labels(COUNTS)
    x_ND = standardised_by_hand(features_ND, labels_N)
    expected_NK, expected = balanced_softmax_by_scipy(x_ND, labels_N.numpy(), 0.01)
    head = exactly("balanced_softmax").fit(features_ND, labels_N, 4, 0.01)
    np.testing.assert_allclose(centred(head.logits(features_ND).numpy()), centred(expected_NK), atol=1e-4)
    problem = standardise(features_ND, labels_N, 4)
    phases = parse_loss("balanced_softmax").phases(problem.counts_P)
    solution = minimise(prepare(problem, cosine=False), phases, 0.01, max_iterations=2000, tolerance=1e-14)
    assert solution.objective == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("loss", ["focal", "ldam", {"name": "ldam", "class_balanced": True}, "class_balanced"])
def test_no_step_away_from_the_solution_is_better(loss: object) -> None:
    features_ND, labels_N = features_and_labels(COUNTS)
    spec = exactly(loss)
    head = spec.fit(features_ND, labels_N, 4, 0.01)
    value = spec.loss.build(torch.bincount(labels_N))

    def objective(weight_KD: torch.Tensor) -> float:
        if head.scale is None:
            shifted = (weight_KD - head.weight_KD) @ features_ND.T
            return float(value(head.logits(features_ND) + shifted.T, labels_N)) + 0.005 * float(
                ((weight_KD * head.std_D) ** 2).sum()
            )
        module = CosineHead(weight_KD, head.bias_K, head.mean_D, head.std_D, torch.tensor(1.0))
        return float(value(module(features_ND), labels_N))

    best, generator = objective(head.weight_KD), torch.Generator().manual_seed(0)
    for _ in range(30):
        step_KD = 1e-3 * torch.randn(head.weight_KD.shape, generator=generator, dtype=torch.float64)
        assert objective(head.weight_KD + step_KD) > best - 1e-10


def test_a_cosine_head_is_normalised_and_has_no_penalty() -> None:
    features_ND, labels_N = features_and_labels(COUNTS)
    spec = LogisticSpec(loss={"name": "ldam", "scale": 12.0})  # type: ignore[arg-type]
    assert spec.grid == (0.0,)
    head = spec.fit(features_ND, labels_N, 4, 0.5)
    assert head.setting == 0.0
    assert head.logits(features_ND).abs().max() <= 12.0
    torch.testing.assert_close(head.weight_KD.norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert (head.logits(features_ND).argmax(1) == labels_N).double().mean() > 0.7


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_fits_and_leaves_absent_classes_out(name: str) -> None:
    features_ND, labels_N = features_and_labels([30, 0, 10, 5])
    head = LogisticSpec(loss=name).fit(features_ND.float(), labels_N, 4, 1e-2)  # type: ignore[arg-type]
    predicted_N = head.logits(features_ND).argmax(1)
    assert not (predicted_N == 1).any()
    recalls = [(predicted_N[labels_N == k] == k).double().mean().item() for k in (0, 2, 3)]
    assert np.mean(recalls) > 0.6


def test_deferred_goes_on_from_the_plain_loss() -> None:
    features_ND, labels_N = features_and_labels(COUNTS)
    problem = standardise(features_ND, labels_N, 4)
    prepared = prepare(problem, cosine=False)
    plain, weighted = (parse_loss(name).build(problem.counts_P) for name in ("cross_entropy", "class_balanced"))
    options = {"tolerance": 0.0}
    first = minimise(prepared, [Phase(1.0, plain)], 0.01, max_iterations=6, **options)
    expected = minimise(prepared, [Phase(1.0, weighted)], 0.01, max_iterations=2, start=first, **options)
    spec = LogisticSpec(
        loss={"name": "deferred", "share": 0.75},  # type: ignore[arg-type]
        penalties=(0.01,),
        max_iterations=8,
        tolerance=0.0,
    )
    head = spec.fit(features_ND, labels_N, 4, 0.01)
    torch.testing.assert_close(head.weight_KD * head.std_D, expected.weight_PD)


def test_parts_do_not_change_the_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, labels_N = features_and_labels(COUNTS)
    whole = exactly("class_balanced").fit(features_ND, labels_N, 4, 0.01)
    monkeypatch.setitem(standardise_module.PART_BYTES, "cpu", 11 * 8 * 6)
    parts = exactly("class_balanced").fit(features_ND, labels_N, 4, 0.01)
    torch.testing.assert_close(whole.weight_KD, parts.weight_KD, atol=1e-5, rtol=1e-5)


def test_out_of_fold_predictions_equal_plain_refits() -> None:
    features_ND, labels_N = features_and_labels([40, 12, 3, 1])
    spec = exactly("balanced_softmax", penalties=(0.01, 0.1), folds=4)
    found = spec.cross_validate(features_ND, labels_N, 4, seed=3)
    assert [one.setting for one in found] == [0.1, 0.01]
    for one in found:
        assert (one.predicted_N == -1).tolist() == (labels_N == 3).tolist()
        for fold in range(4):
            held_out = one.fold_N == fold
            head = spec.fit(features_ND[~held_out], labels_N[~held_out], 4, one.setting)
            assert torch.equal(one.predicted_N[held_out], head.logits(features_ND[held_out]).argmax(1))
    again = spec.cross_validate(features_ND, labels_N, 4, seed=3)
    assert torch.equal(found[0].predicted_N, again[0].predicted_N)


def test_out_of_fold_loss_is_the_mean_over_classes() -> None:
    features_ND, labels_N = features_and_labels([40, 12, 3, 1])
    (one,) = exactly("cross_entropy", penalties=(0.1,), folds=3).cross_validate(features_ND, labels_N, 4, seed=0)
    losses: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for i in (labels_N < 3).nonzero().squeeze(1).tolist():
        logits_K = one.heads[int(one.fold_N[i])].logits(features_ND[i : i + 1])[0].numpy()
        losses[int(labels_N[i])].append(-log_softmax(logits_K)[int(labels_N[i])])
    assert one.balanced_loss == pytest.approx(np.mean([np.mean(values) for values in losses.values()]))


def test_what_comes_between_fits_ends_them() -> None:
    features_ND, labels_N = features_and_labels([20, 8])
    calls = 0

    def between() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise TimeoutError

    spec = LogisticSpec(loss="cross_entropy", penalties=(1.0, 0.1, 0.01), folds=2)  # type: ignore[arg-type]
    assert len(spec.cross_validate(features_ND, labels_N, 2, seed=0)) == 3
    with pytest.raises(TimeoutError):
        spec.cross_validate(features_ND, labels_N, 2, seed=0, between=between)


@pytest.mark.parametrize("loss", ["balanced_softmax", "deferred", "ldam"])
@pytest.mark.parametrize("stop", [1, 9, 23])
@pytest.mark.parametrize("tolerance", [0.0, 3e-5])
def test_an_interrupted_fit_goes_on_to_the_same_head(loss: str, stop: int, tolerance: float, tmp_path: Path) -> None:
    features_ND, labels_N = features_and_labels(COUNTS)
    spec = LogisticSpec(loss=loss, max_iterations=12, tolerance=tolerance)  # type: ignore[arg-type]
    whole = spec.fit(features_ND, labels_N, 4, 1e-4)
    seen: list[float] = []

    def progress(share: float, objective: float) -> None:
        seen.append(share)
        if len(seen) == stop:
            raise KeyboardInterrupt

    path = tmp_path / "head.safetensors"
    try:
        spec.fit(features_ND, labels_N, 4, 1e-4, checkpoint=Checkpoint(path, every_seconds=0.0), progress=progress)
    except KeyboardInterrupt:
        assert path.exists()
    shares: list[float] = []
    head = spec.fit(
        features_ND, labels_N, 4, 1e-4, checkpoint=Checkpoint(path, every_seconds=0.0),
        progress=lambda share, objective: shares.append(share),
    )  # fmt: skip
    assert torch.equal(head.weight_KD, whole.weight_KD)
    assert torch.equal(head.bias_K, whole.bias_K)
    assert not path.exists()
    assert len(seen) < stop or shares[0] >= seen[-1]
    assert shares == sorted(shares)
    assert shares[-1] <= 1.0


def test_a_checkpoint_is_continued_by_its_own_fit_only(tmp_path: Path) -> None:
    features_ND, labels_N = features_and_labels(COUNTS)
    spec, path = LogisticSpec(), tmp_path / "head.safetensors"

    def stop(share: float, objective: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spec.fit(features_ND, labels_N, 4, 0.1, checkpoint=Checkpoint(path, 0.0), progress=stop)
    for other, features in ((spec, features_ND * 2), (LogisticSpec(max_iterations=7), features_ND)):
        with pytest.raises(ResumeError, match="its own"):
            other.fit(features, labels_N, 4, 0.1, checkpoint=Checkpoint(path, 0.0))
    path.write_bytes(b"broken")
    with pytest.raises(ResumeError, match="readable"):
        spec.fit(features_ND, labels_N, 4, 0.1, checkpoint=Checkpoint(path, 0.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_features_may_lie_in_a_file(dtype: torch.dtype, tmp_path: Path) -> None:
    features_ND, labels_N = features_and_labels(COUNTS)
    features_ND = features_ND.to(dtype)
    path = tmp_path / "features"
    features_ND.numpy().tofile(path)
    from_file = mapped(path, len(labels_N), 6, dtype)
    expected, found = (LogisticSpec().fit(one, labels_N, 4, 0.01) for one in (features_ND, from_file))
    assert torch.equal(expected.weight_KD, found.weight_KD)
    for wrong in ((path, 7), (tmp_path / "none", 6)):
        with pytest.raises(InputError, match="features must have"):
            mapped(wrong[0], len(labels_N), wrong[1], dtype)


def test_features_too_large_to_keep_give_the_same_head(monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, labels_N = features_and_labels(COUNTS)
    for loss in ("balanced_softmax", "ldam"):
        spec = LogisticSpec(loss=loss)  # type: ignore[arg-type]
        kept = spec.fit(features_ND, labels_N, 4, 0.01)
        with monkeypatch.context() as patch:
            patch.setattr(minimise_module, "KEPT_BYTES", 0)
            assert prepare(standardise(features_ND, labels_N, 4), cosine=False).kept_ND is None
            again = spec.fit(features_ND, labels_N, 4, 0.01)
        torch.testing.assert_close(again.weight_KD, kept.weight_KD)


@pytest.mark.parametrize("loss", ["inverse_frequency", "balanced_softmax"])
@pytest.mark.parametrize("penalty", [1e-5, 1e-3])
def test_the_objective_is_within_the_tolerance_of_the_minimum(loss: str, penalty: float) -> None:
    features_ND, labels_N = features_and_labels([300, 80, 20, 8], dimension=20, seed=3)
    problem = standardise(features_ND, labels_N, 4)
    prepared, phases = prepare(problem, cosine=False), parse_loss(loss).phases(problem.counts_P)
    least = minimise(prepared, phases, penalty, max_iterations=300, tolerance=1e-10).objective
    for tolerance in (1e-3, 1e-5):
        found = minimise(prepared, phases, penalty, max_iterations=3000, tolerance=tolerance)
        assert least <= found.objective * (1 + 1e-7)
        assert found.objective <= least * (1 + 10 * tolerance)


def test_wrong_input_gets_a_sentence() -> None:
    features_ND, labels_N = features_and_labels([20, 8])
    features_ND[3, 2] = float("inf")
    with pytest.raises(WorkError, match="finite"):
        LogisticSpec().fit(features_ND, labels_N, 2, 0.1)
    with pytest.raises((InputError, ValueError), match="balanced_softmax"):
        LogisticSpec(loss="balanced_softmaxx")  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", ["ldam", "balanced_softmax"])
def test_constant_features_give_a_finite_head(loss: str) -> None:
    labels_N = torch.arange(20) % 3
    head = LogisticSpec(loss=loss).fit(torch.full((20, 4), 2.5), labels_N, 3, 0.01)  # type: ignore[arg-type]
    assert torch.isfinite(head.weight_KD).all()
    logits_NK = head.logits(torch.full((5, 4), 2.5))
    assert torch.isfinite(logits_NK).all()
    assert (logits_NK == logits_NK[:1]).all()


def test_a_class_whose_images_cancel_has_a_direction_all_the_same() -> None:
    features_ND = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [2.0, 0.0], [2.1, 0.0], [-2.0, 0.0], [-2.1, 0.0]])
    labels_N = torch.tensor([0, 0, 1, 1, 2, 2])
    head = LogisticSpec(loss="ldam").fit(features_ND, labels_N, 3, 0.0)  # type: ignore[arg-type]
    assert torch.isfinite(head.logits(features_ND)).all()
    assert (head.logits(features_ND).argmax(1)[2:] == labels_N[2:]).all()


def test_an_objective_that_is_not_finite_is_a_work_error() -> None:
    features_ND, labels_N = features_and_labels([20, 8])
    prepared = prepare(standardise(features_ND, labels_N, 2), cosine=False)
    broken = [Phase(1.0, lambda logits_BK, labels_B: (logits_BK * float("nan")).sum())]
    with pytest.raises(WorkError, match="finite"):
        minimise(prepared, broken, 0.1, max_iterations=5, tolerance=1e-5)


def test_a_fit_tells_how_flat_it_ended() -> None:
    features_ND, labels_N = features_and_labels(COUNTS)
    loose, tight = (LogisticSpec(tolerance=tolerance).fit(features_ND, labels_N, 4, 0.01) for tolerance in (1e-1, 1e-9))
    assert loose.gradient_norm is not None
    assert tight.gradient_norm is not None
    assert tight.gradient_norm < 0.01 * loose.gradient_norm
