"""Stacked minibatch heads: the optimum of the full batch, one by one or together, interrupted or not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nasimb.errors import ResumeError, WorkError
from nasimb.heads import logistic, stacked
from nasimb.heads.checkpoint import Checkpoint
from nasimb.heads.logistic import LogisticSpec
from nasimb.heads.stacked import StackedSpec, full_batch_fits, train_stacked
from nasimb.heads.standardise import standardise
from nasimb.losses import LOSSES, parse_loss

COUNTS = (120, 40, 12)


def blobs(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    centres_KD = torch.randn(3, 5, generator=torch.Generator().manual_seed(7))
    scale_D = torch.tensor([0.1, 1.0, 5.0, 1.0, 2.0])
    return (centres_KD[labels_N] + torch.randn(len(labels_N), 5, generator=generator)) * scale_D + 3.0, labels_N


@pytest.mark.parametrize("loss", ["cross_entropy", "balanced_softmax", "inverse_frequency"])
def test_reaches_the_optimum_of_the_full_batch(loss: str) -> None:
    features_ND, labels_N = blobs()
    spec = StackedSpec(
        learning_rates=(0.2,), weight_decays=(0.1, 0.01), epochs=150, batch_size=43, tolerance=0.0, fewest_steps=0
    )
    for found in train_stacked(spec, [parse_loss(loss)], features_ND, labels_N, 3):
        full = LogisticSpec(loss=loss, tolerance=1e-12).fit(features_ND, labels_N, 3, found.weight_decay)  # type: ignore[arg-type]
        logits_NK, expected_NK = found.head.logits(features_ND), full.logits(features_ND)
        difference_NK = (logits_NK - logits_NK.mean(1, keepdim=True)) - (
            expected_NK - expected_NK.mean(1, keepdim=True)
        )
        assert difference_NK.abs().max() < 0.05
        assert found.head.setting == found.weight_decay


def test_a_stack_holds_what_each_head_would_be_alone() -> None:
    features_ND, labels_N = blobs()
    losses = [parse_loss("balanced_softmax"), parse_loss("ldam"), parse_loss("deferred")]
    options = {"epochs": 3, "batch_size": 50, "fewest_steps": 0}
    spec = StackedSpec(learning_rates=(0.1, 1.0), weight_decays=(1e-2, 1e-4), **options)  # type: ignore[arg-type]
    together = train_stacked(spec, losses, features_ND, labels_N, 3)
    assert len(together) == 4 + 2 + 4  # weight decay means nothing to a cosine head
    for one in together:
        alone = StackedSpec(learning_rates=(one.learning_rate,), weight_decays=(one.weight_decay,), **options)  # type: ignore[arg-type]
        (loss,) = (loss for loss in losses if loss.name == one.loss)
        (expected,) = train_stacked(alone, [loss], features_ND, labels_N, 3)
        torch.testing.assert_close(one.head.weight_KD, expected.head.weight_KD, rtol=1e-4, atol=1e-5)
        assert one.balanced_loss == pytest.approx(expected.balanced_loss, rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_learns(name: str) -> None:
    features_ND, labels_N = blobs()
    spec = StackedSpec(batch_size=43, fewest_steps=0)
    best = train_stacked(spec, [parse_loss(name)], features_ND, labels_N, 3, held_out=blobs(1))[0]
    assert best.balanced_accuracy > 0.6
    predicted_M = best.head.logits(blobs(1)[0]).argmax(1)
    recalls = [(predicted_M[labels_N == k] == k).double().mean().item() for k in range(3)]
    assert best.balanced_accuracy == pytest.approx(sum(recalls) / 3)


def test_the_best_comes_first_and_a_diverged_head_last() -> None:
    features_ND, labels_N = blobs()
    spec = StackedSpec(learning_rates=(1e6, 1e-6, 0.3), weight_decays=(0.0,), epochs=5, batch_size=43, fewest_steps=0)
    found = train_stacked(spec, [parse_loss("balanced_softmax")], features_ND, labels_N, 3)
    assert found[0].learning_rate == 0.3
    assert found[-1].learning_rate == 1e6


def test_a_converged_head_ends_before_its_schedule() -> None:
    features_ND, labels_N = blobs()
    options = {
        "learning_rates": (0.05, 1e-5),
        "weight_decays": (1.0,),
        "epochs": 60,
        "batch_size": 43,
        "fewest_steps": 0,
    }
    found = train_stacked(StackedSpec(**options), [parse_loss("cross_entropy")], features_ND, labels_N, 3)  # type: ignore[arg-type]
    epochs = {one.learning_rate: one.epochs for one in found}
    assert epochs[0.05] < 60
    assert epochs[1e-5] == 60


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_an_interrupted_pass_ends_in_the_same_heads(stop: int, tmp_path: Path) -> None:
    features_ND, labels_N = blobs()
    losses = [parse_loss("balanced_softmax"), parse_loss("ldam")]
    spec = StackedSpec(epochs=3, batch_size=43, fewest_steps=0)
    whole = train_stacked(spec, losses, features_ND, labels_N, 3)
    path, calls = tmp_path / "stack.safetensors", 0

    def interrupt(share: float) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_stacked(spec, losses, features_ND, labels_N, 3, checkpoint=Checkpoint(path, 0.0), progress=interrupt)
    with pytest.raises(ResumeError):
        train_stacked(spec, losses[:1], features_ND, labels_N, 3, checkpoint=Checkpoint(path, 0.0))
    shares: list[float] = []
    again = train_stacked(
        spec, losses, features_ND, labels_N, 3, checkpoint=Checkpoint(path, 0.0), progress=shares.append
    )
    assert len(shares) == 12 - stop
    assert shares[-1] == 1.0
    assert not path.exists()
    for one, other in zip(whole, again, strict=True):
        assert torch.equal(one.head.weight_KD, other.head.weight_KD)
        assert one.balanced_loss == other.balanced_loss


def test_the_seed_is_all_that_orders_the_images() -> None:
    features_ND, labels_N = blobs()
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed + 5)
        spec = StackedSpec(learning_rates=(0.3,), epochs=2, batch_size=43, seed=seed, fewest_steps=0)
        weights.append(train_stacked(spec, [parse_loss("focal")], features_ND, labels_N, 3)[0].head.weight_KD)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_logistic_head_that_does_not_fit_is_trained_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, labels_N = blobs()
    full = LogisticSpec().fit(features_ND, labels_N, 3, 0.1)
    assert full.solver == "full batch"
    monkeypatch.setattr(stacked, "FULL_BATCH_NUMBERS", 0)
    monkeypatch.setattr(logistic, "MINIBATCH", StackedSpec(batch_size=43, epochs=60, fewest_steps=0))
    head = LogisticSpec().fit(features_ND, labels_N, 3, 0.1)
    assert head.solver == "minibatch"
    assert (head.name, head.setting) == (full.name, full.setting)
    difference_NK = head.logits(features_ND) - full.logits(features_ND)
    assert (difference_NK - difference_NK.mean(1, keepdim=True)).abs().max() < 0.2
    walked = list(LogisticSpec(penalties=(0.1, 1.0)).walk(features_ND, labels_N, 3))
    assert [(one.solver, one.setting) for one in walked] == [("minibatch", 1.0), ("minibatch", 0.1)]
    torch.testing.assert_close(walked[1].weight_KD, head.weight_KD, rtol=1e-4, atol=1e-5)


def test_a_walk_in_batches_is_one_pass_over_all_penalties(monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, labels_N = blobs()
    passes: list[tuple[float, ...]] = []

    def counted(spec: StackedSpec, *args: object, **options: object) -> object:
        passes.append(spec.weight_decays)
        return train_stacked(spec, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(stacked, "FULL_BATCH_NUMBERS", 0)
    monkeypatch.setattr(logistic, "MINIBATCH", StackedSpec(batch_size=43, epochs=2, fewest_steps=0))
    monkeypatch.setattr(logistic, "train_stacked", counted)
    heads = list(LogisticSpec().walk(features_ND, labels_N, 3))
    assert passes == [LogisticSpec().grid]
    assert [head.setting for head in heads] == list(LogisticSpec().grid)
    (cosine,) = LogisticSpec(loss="ldam").walk(features_ND, labels_N, 3)  # type: ignore[arg-type]
    assert cosine.setting == 0.0
    calls = 0

    def between() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        list(LogisticSpec().walk(features_ND, labels_N, 3, between))


@pytest.mark.parametrize("penalty", [10.0, 1000.0])
def test_a_large_penalty_leaves_small_weights(penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, labels_N = blobs()
    spec = LogisticSpec(loss="cross_entropy", penalties=(penalty,))  # type: ignore[arg-type]
    full = spec.fit(features_ND, labels_N, 3, penalty)
    monkeypatch.setattr(stacked, "FULL_BATCH_NUMBERS", 0)
    monkeypatch.setattr(logistic, "MINIBATCH", StackedSpec(batch_size=43, epochs=60, fewest_steps=0))
    head = spec.fit(features_ND, labels_N, 3, penalty)
    torch.testing.assert_close(head.weight_KD * head.std_D, full.weight_KD * full.std_D, rtol=0.0, atol=0.01)
    assert head.gradient_norm is not None
    assert head.gradient_norm < 0.1


def test_a_pass_of_which_no_head_is_finite_is_a_work_error(monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, labels_N = blobs()
    monkeypatch.setattr(stacked, "FULL_BATCH_NUMBERS", 0)
    spec = StackedSpec(batch_size=43, epochs=2, learning_rates=(1e38,), fewest_steps=0)
    monkeypatch.setattr(logistic, "MINIBATCH", spec)
    with pytest.raises(WorkError, match="finite"):
        LogisticSpec(penalties=(0.0,)).fit(features_ND, labels_N, 3, 0.0)


@pytest.mark.parametrize("tolerance", [1e-2, 0.5])
def test_a_deferred_loss_reaches_its_balanced_phase(tolerance: float) -> None:
    """It was converged in its first phase, which every loss here soon is, and never got to the second."""
    features_ND, labels_N = blobs()
    options = {"weight_decays": (0.1,), "learning_rates": (0.1,), "epochs": 60, "batch_size": 43, "fewest_steps": 0}
    losses = [parse_loss("cross_entropy"), parse_loss("deferred"), parse_loss("class_balanced")]
    spec = StackedSpec(tolerance=tolerance, **options)  # type: ignore[arg-type]
    found = {one.loss: one for one in train_stacked(spec, losses, features_ND, labels_N, 3)}
    assert found["cross_entropy"].epochs < 48
    assert 48 < found["deferred"].epochs <= 60
    if tolerance < 0.1:
        expected, plain = found["class_balanced"].objective, found["cross_entropy"].head
        assert found["deferred"].objective == pytest.approx(expected, rel=0.01)
        assert (found["deferred"].head.weight_KD - plain.weight_KD).abs().max() > 0.05


def test_every_phase_has_its_own_schedule() -> None:
    features_ND, labels_N = blobs()
    group = stacked._Group.of(StackedSpec(), parse_loss("deferred"), standardise(features_ND, labels_N, 3))
    first, last = group.phases
    assert [group._phase(share) for share in (0.0, 0.4, 0.8, 0.9, 1.0)] == [
        (first, 0.0), (first, 0.5), (last, 0.0), (last, pytest.approx(0.5)), (last, 1.0)
    ]  # fmt: skip


def test_few_images_are_seen_more_often() -> None:
    spec = StackedSpec(epochs=20, fewest_steps=2000)
    assert [spec.epochs_of(batches) for batches in (1, 24, 100, 855)] == [2000, 84, 20, 20]


def test_the_objective_is_that_of_the_full_batch() -> None:
    features_ND, labels_N = blobs()
    spec = StackedSpec(learning_rates=(0.2,), weight_decays=(0.05,), epochs=4, batch_size=43, fewest_steps=0)
    (found,) = train_stacked(spec, [parse_loss("cross_entropy")], features_ND, labels_N, 3)
    entropy = torch.nn.functional.cross_entropy(found.head.logits(features_ND), labels_N)
    squares = (found.head.weight_KD * found.head.std_D).square().sum()
    assert found.objective == pytest.approx(float(entropy + 0.025 * squares), rel=1e-5)


def test_the_rule_for_the_full_batch() -> None:
    assert full_batch_fits(12_000, 512, 100)
    assert full_batch_fits(115_846, 1280, 1000)
    assert not full_batch_fits(437_513, 1280, 8142)
    assert not full_batch_fits(1000, 4096, 10_000)  # the memory of L-BFGS alone
