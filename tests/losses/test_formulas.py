"""Every loss against its formula written out in NumPy, and what all of them promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import log_softmax

from nasimb.errors import InputError
from nasimb.losses import LOSSES, parse_loss

COUNTS = np.array([500.0, 40.0, 3.0])


def batch(seed: int = 0, size: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 3)) * 2, rng.integers(3, size=size)


def entropies(logits_BK: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    return -log_softmax(logits_BK, axis=1)[np.arange(len(labels_B)), labels_B]


def effective(beta: float) -> np.ndarray:
    weights_K = (1 - beta) / (1 - beta**COUNTS)
    return weights_K / (weights_K @ COUNTS) * COUNTS.sum()


def margins(largest: float) -> np.ndarray:
    unscaled_K = COUNTS**-0.25
    return largest * unscaled_K / unscaled_K.max()


def formula(options: dict[str, object], z: np.ndarray, y: np.ndarray) -> float:
    match options:
        case {"name": "cross_entropy"}:
            return entropies(z, y).mean()
        case {"name": "inverse_frequency"}:
            return (COUNTS.sum() / (3 * COUNTS[y]) * entropies(z, y)).mean()
        case {"name": "class_balanced", "beta": beta}:
            return (effective(beta)[y] * entropies(z, y)).mean()
        case {"name": "balanced_softmax"}:
            return entropies(z + np.log(COUNTS), y).mean()
        case {"name": "logit_adjusted", "tau": tau}:
            return entropies(z + tau * np.log(COUNTS / COUNTS.sum()), y).mean()
        case {"name": "focal", "gamma": gamma, "class_balanced": True}:
            p = np.exp(-entropies(z, y))
            return (effective(0.9999)[y] * (1 - p) ** gamma * entropies(z, y)).mean()
        case {"name": "focal", "gamma": gamma}:
            p = np.exp(-entropies(z, y))
            return ((1 - p) ** gamma * entropies(z, y)).mean()
        case {"name": "ldam", "class_balanced": True}:
            return (effective(0.9999)[y] * entropies(30 * (z - margins(0.5)[y, None] * np.eye(3)[y]), y)).mean()
        case {"name": "ldam", "max_margin": margin, "scale": scale}:
            return entropies(scale * (z - margins(margin)[y, None] * np.eye(3)[y]), y).mean()
    raise AssertionError(options)


CASES: list[dict[str, object]] = [
    {"name": "cross_entropy"},
    {"name": "inverse_frequency"},
    {"name": "class_balanced", "beta": 0.9999},
    {"name": "class_balanced", "beta": 0.9},
    {"name": "balanced_softmax"},
    {"name": "logit_adjusted", "tau": 1.5},
    {"name": "focal", "gamma": 2.0},
    {"name": "focal", "gamma": 0.5, "class_balanced": True},
    {"name": "ldam", "max_margin": 0.3, "scale": 10.0},
    {"name": "ldam", "class_balanced": True},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_formula(options: dict[str, object]) -> None:
    z, y = batch()
    spec = parse_loss(options)
    z = z / 4 if spec.cosine else z
    found = spec.build(torch.tensor(COUNTS))(torch.tensor(z), torch.tensor(y))
    assert found.item() == pytest.approx(formula(options, z, y), rel=1e-10)


def test_every_loss_has_a_formula_here() -> None:
    assert {str(options["name"]) for options in CASES} | {"deferred"} == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-3, 1.0, 200.0])
def test_finite_with_finite_gradients_at_extreme_counts(name: str, dtype: torch.dtype, size: float) -> None:
    counts_K = torch.tensor([100_000, 1, 50])
    logits_BK = torch.randn(12, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)) * size
    logits_BK[0] = torch.tensor([1.0, -1.0, 0.0]) * size
    logits_BK.requires_grad_(True)
    labels_B = torch.tensor([0, 1, 2] * 4)
    for _, loss in parse_loss(name).phases(counts_K):
        value = loss(logits_BK, labels_B)
        (gradient,) = torch.autograd.grad(value, logits_BK)
        assert value.dtype == dtype
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0


BALANCED_EQUALS_PLAIN = ["inverse_frequency", "class_balanced", "balanced_softmax", "logit_adjusted", "deferred"]


@pytest.mark.parametrize("options", [*BALANCED_EQUALS_PLAIN, {"name": "focal", "gamma": 0.0}], ids=str)
def test_equals_cross_entropy_where_classes_are_balanced(options: str | dict[str, object]) -> None:
    z, y = (torch.tensor(a) for a in batch())
    found = parse_loss(options).build(torch.tensor([70, 70, 70]))(z, y)
    assert found.item() == pytest.approx(torch.nn.functional.cross_entropy(z, y).item(), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_without_images_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match="class 1 with 0"):
        parse_loss(name).phases(torch.tensor([5, 0, 2]))


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_set_is_the_mean_of_its_parts(name: str) -> None:
    z, y = (torch.tensor(a) for a in batch(size=30))
    loss = parse_loss(name).build(torch.tensor(COUNTS))
    parts = (loss(z[:12], y[:12]) * 12 + loss(z[12:], y[12:]) * 18) / 30
    assert loss(z, y).item() == pytest.approx(parts.item(), rel=1e-12)


def test_over_the_training_images_weights_are_torchs_own() -> None:
    counts_K = torch.tensor([12, 5, 2])
    labels_N = torch.repeat_interleave(torch.arange(3), counts_K)
    logits_NK = torch.randn(19, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = parse_loss("inverse_frequency").build(counts_K)(logits_NK, labels_N)
    theirs = torch.nn.functional.cross_entropy(logits_NK, labels_N, weight=1.0 / counts_K.double())
    assert found.item() == pytest.approx(theirs.item(), rel=1e-12)


def test_margins_of_cifar_100_at_imbalance_factor_100() -> None:
    spec = parse_loss("ldam")
    margins_K = spec.margins(torch.tensor([500, 5]))  # type: ignore[attr-defined]
    assert margins_K.tolist() == pytest.approx([0.158, 0.5], abs=5e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("focall", "Did you mean 'focal'"),
        ({"name": "focal", "gama": 2}, "Did you mean 'gamma'"),
        ({"name": "focal", "gamma": -1}, "gamma"),
        ({"name": "class_balanced", "beta": 1.0}, "beta"),
        ({"name": "deferred", "base": "cross_entropy"}, "deferred loss"),
        ({"name": "deferred", "base": 3}, "deferred loss must be one of"),
        ({"name": "deferred", "share": 1.0}, "share"),
    ],
)
def test_wrong_options_get_a_sentence(options: str | dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_loss(options)


def test_options_cannot_change() -> None:
    with pytest.raises(ValidationError):
        parse_loss("focal").gamma = 3.0  # type: ignore[attr-defined]
