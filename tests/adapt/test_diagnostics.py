"""P-values that are right on skewed images with nothing wrong, shifts that are found, and numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from nasimb.adapt.adapter import BatchNormAdapter
from nasimb.adapt.diagnostics import diagnose, layer_table
from nasimb.adapt.profile import ClassProfile, ClassSums, LayerProfile, Reference, class_profile
from nasimb.errors import InputError
from nasimb.nn.mixing import sampled
from nasimb.nn.moments import Moments


def exponential(*shape: int, seed: int) -> Tensor:
    return torch.empty(*shape).exponential_(generator=torch.Generator().manual_seed(seed))


def profile_of(values_NC: Tensor, labels_N: Tensor, classes: int) -> ClassProfile:
    sums = ClassSums(classes, values_NC.shape[1], torch.device("cpu"))
    sums.add(values_NC[:, :, None, None], labels_N)
    shares_K = torch.bincount(labels_N, minlength=classes).float() / len(labels_N)
    return ClassProfile(shares_K, shares_K, {"a": sums.profile()}, {"a": True}, Reference(1.0, None, 0.0))


def row(x_BC: Tensor, profile: ClassProfile | None, source: Moments | None = None, **more: object) -> dict[str, object]:
    source = source or profile.layers["a"].moments(profile.shares_K)  # type: ignore[union-attr]
    table = layer_table({"a": source}, {"a": sampled(x_BC[:, :, None, None])}, profile=profile, **more)  # type: ignore[arg-type]
    (found,) = table.to_dict(orient="records")
    return found


@pytest.mark.parametrize(("images", "tail"), [(12, "saddlepoint"), (64, "Edgeworth")])
@pytest.mark.parametrize("channels", [1, 12])
def test_p_values_are_right_where_nothing_is_wrong(images: int, tail: str, channels: int) -> None:
    profile = profile_of(exponential(100_000, channels, seed=0), torch.zeros(100_000, dtype=torch.long), 1)
    draws = 800
    rows = [row(exponential(images, channels, seed=seed), profile) for seed in range(1, draws + 1)]
    assert {one["tail"] for one in rows} == {tail}
    p_values = np.array([one["p_value"] for one in rows])
    for level in (0.2, 0.05):
        rate, deviation = float((p_values <= level).mean()), math.sqrt(level * (1 - level) / draws)
        assert rate <= level + 3.5 * deviation
        # Bonferroni is conservative: 1 - (1 - level/C)^C of independent channels.
        assert rate >= 1 - (1 - level / channels) ** channels - 3.5 * deviation


def test_the_normal_tail_would_be_wrong_there() -> None:
    profile = profile_of(exponential(100_000, 1, seed=0), torch.zeros(100_000, dtype=torch.long), 1)
    x_BC = torch.full((12, 1), 0.35)  # far below the mean of 1: -2.25 deviations, impossible-looking for a normal one
    right = stats.gamma(12, scale=1 / 12)
    both_sides = 2 * right.cdf(0.35)
    assert row(x_BC, profile)["p_value"] == pytest.approx(both_sides, rel=0.1)
    assert 2 * stats.norm.cdf(-0.65 * 12**0.5) > 3 * both_sides


def test_a_noisy_profile_is_reckoned_with() -> None:
    """As many training images as target images: twice the variance, and a difference without skewness."""
    p_values = []
    for seed in range(800):
        profile = profile_of(exponential(60, 1, seed=2 * seed), torch.zeros(60, dtype=torch.long), 1)
        p_values.append(row(exponential(60, 1, seed=2 * seed + 1), profile, source_images=60)["p_value"])
    rate = float((np.array(p_values) <= 0.05).mean())
    assert rate == pytest.approx(0.05, abs=0.025)
    ignored = row(exponential(60, 1, seed=9) + 0.3, profile)["p_value"]
    assert row(exponential(60, 1, seed=9) + 0.3, profile, source_images=60)["p_value"] > ignored  # type: ignore[operator]


def test_a_planted_shift_is_found() -> None:
    profile = profile_of(exponential(50_000, 8, seed=0), torch.zeros(50_000, dtype=torch.long), 1)
    clean_BC = exponential(64, 8, seed=3)
    shifted_BC = clean_BC + torch.tensor([0.0] * 7 + [1.0])
    assert row(clean_BC, profile)["p_value"] > 0.05  # type: ignore[operator]
    assert row(shifted_BC, profile)["p_value"] < 1e-6  # type: ignore[operator]
    assert row(shifted_BC, None, profile.layers["a"].moments(torch.ones(1)))["p_value"] < 1e-6  # type: ignore[operator]


def test_numbers_by_hand() -> None:
    labels_N = torch.tensor([0, 0, 0, 1])
    profile = profile_of(torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0], [9.0, 6.0]]), labels_N, 2)
    x_BC = torch.tensor([[4.0, 3.0], [6.0, 5.0], [8.0, 4.0]])
    source = Moments(torch.tensor([1.0, 1.0]), torch.tensor([4.0, 4.0]))
    found = row(x_BC, profile, source, weights={"a": torch.tensor(0.25)}, shares_K=torch.tensor([0.5, 0.5]))
    # Training: means (3, 3), biased variances (12.5, 3.5); the target's means are (6, 4).
    shift_C = np.array([3 / 12.5**0.5, 1 / 3.5**0.5])
    assert found["shift"] == pytest.approx(math.sqrt((shift_C**2).mean()), rel=1e-5)
    # In equal shares the means would be (1 + 9) / 2 = 5 and (2 + 6) / 2 = 4.
    rest_C = np.array([1 / 12.5**0.5, 0.0])
    assert found["explained"] == pytest.approx(1 - (rest_C**2).sum() / (shift_C**2).sum(), rel=1e-5)
    assert (found["layer"], found["channels"], found["images"], found["weight"]) == ("a", 2, 3, 0.25)
    first, second = np.array([0.0, 1.0, 2.0, 9.0]), np.array([1.0, 3.0, 2.0, 6.0])
    assert found["skewness"] == pytest.approx(min(stats.skew(first), stats.skew(second)), rel=1e-4)
    # One value an image: the variance of the mean is the unbiased one / 3.
    assert found["effective_n"] == pytest.approx(3, rel=1e-4)


def test_the_limit_is_the_normal_one_without_a_profile_and_longer_with_skewness() -> None:
    x_BC = torch.randn(40, 1, generator=torch.Generator().manual_seed(0))
    plain = row(x_BC, None, Moments(torch.zeros(1), torch.ones(1)))
    assert plain["tail"] == "normal"
    assert plain["limit"] == pytest.approx(stats.norm.ppf(0.975) * float(x_BC.std()) / 40**0.5, rel=1e-4)
    assert math.isnan(plain["skewness"])  # type: ignore[arg-type]
    assert math.isnan(plain["explained"])  # type: ignore[arg-type]
    t = float(x_BC.mean()) / (float(x_BC.std()) / 40**0.5)
    assert plain["p_value"] == pytest.approx(2 * stats.norm.sf(abs(t)), rel=1e-3)
    profile = profile_of(exponential(100_000, 1, seed=0), torch.zeros(100_000, dtype=torch.long), 1)
    skewed = row(exponential(40, 1, seed=1), profile)
    assert skewed["limit"] == pytest.approx(stats.gamma(40, scale=1 / 40).ppf(0.975) - 1, rel=0.02)


def test_dead_channels_decide_nothing() -> None:
    values_NC = exponential(5000, 3, seed=0) * torch.tensor([1.0, 0.0, 0.0])
    profile = profile_of(values_NC, torch.zeros(5000, dtype=torch.long), 1)
    x_BC = exponential(50, 3, seed=1) * torch.tensor([1.0, 0.0, 1.0])
    alone = row(x_BC[:, :1], profile_of(values_NC[:, :1], torch.zeros(5000, dtype=torch.long), 1))
    assert row(x_BC, profile)["p_value"] == pytest.approx(alone["p_value"], rel=1e-4)
    dead = row(torch.zeros(50, 1), profile_of(torch.zeros(50, 1), torch.zeros(50, dtype=torch.long), 1))
    assert math.isnan(dead["p_value"])  # type: ignore[arg-type]
    assert dead["tail"] == "none"


def test_an_adapter_is_diagnosed() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    images_NCHW = torch.rand(256, 1, 8, 8, generator=generator)
    profile = class_profile(model, images_NCHW, torch.arange(256) % 3)
    adapter = BatchNormAdapter(model, "mixed", profile=profile)
    with pytest.raises(InputError, match="nothing remembered"):
        diagnose(adapter)
    same_NCHW, other_NCHW = torch.rand(2, 64, 1, 8, 8, generator=generator)
    adapter(same_NCHW)
    (same,) = diagnose(adapter, source_images=256).to_dict(orient="records")
    adapter.reset()
    adapter(other_NCHW * 0.5)
    (other,) = diagnose(adapter, source_images=256).to_dict(orient="records")
    assert (same["layer"], same["images"], same["channels"]) == ("1", 64, 4)
    assert same["p_value"] > 0.001
    assert other["p_value"] < 1e-6
    assert other["shift"] > 5 * same["shift"]
    maps_BCHW = model[0](same_NCHW).detach()
    (given,) = diagnose(adapter, {"1": sampled(maps_BCHW)}, source_images=256).to_dict(orient="records")
    assert given["shift"] == pytest.approx(same["shift"], rel=1e-4), "of what is given, whatever it has seen since"
    assert math.isnan(given["explained"])
    assert given["weight"] == other["weight"]
    source = adapter.source_moments("1")
    assert isinstance(profile.layers["1"], LayerProfile)
    assert source.mean_C.shape == (4,)
