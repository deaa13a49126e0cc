"""What one layer keeps, and what is refused."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from nasimb.errors import InputError
from nasimb.nn.convert_layer import channels_of, converted, is_norm
from nasimb.nn.norms import NORMS
from nasimb.nn.norms.bn import BatchNorm, BatchNormSpec
from nasimb.nn.norms.nbn import NormalisedBatchNorm2d
from nasimb.spec import from_table


def convert(old: nn.Module, norm: Any = "nbn", *, keep: bool = True) -> Any:
    spec = from_table(NORMS, norm, what="the norm")
    return converted("a.norm", old, spec, torch.Generator().manual_seed(0), torch.empty(0), keep=keep)


def refused(old: nn.Module, norm: Any = "nbn") -> str:
    with pytest.raises(InputError) as caught:
        convert(old, norm)
    return str(caught.value)


def batch_norm(weight_C: Tensor, bias_C: Tensor, **options: Any) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(weight_C), **options).eval()
    norm.load_state_dict({**norm.state_dict(), "weight": weight_C, "bias": bias_C})
    return norm


@given(
    values=st.lists(st.tuples(*[st.floats(-100, 100, width=32)] * 4), min_size=1, max_size=6),
    eps=st.sampled_from([1e-5, 1e-3, 0.1]),
)
@settings(max_examples=60, deadline=None)
def test_a_layer_goes_there_and_back(values: list[tuple[float, ...]], eps: float) -> None:
    weight_C, bias_C, mean_C, spread_C = torch.tensor(values).T
    old = batch_norm(weight_C, bias_C, eps=eps)
    old.running_mean.copy_(mean_C)
    old.running_var.copy_(spread_C.abs())
    x_BCHW = torch.randn(2, len(values), 3, 3, generator=torch.Generator().manual_seed(0)) * 10
    expected = old(x_BCHW)
    there = convert(old)
    back = convert(there, "bn")
    assert there.eps == back.eps == eps
    # By channel, so that a large one does not hide a wrong one; cancellation with the bias costs digits.
    size_C11 = (expected - bias_C[:, None, None]).abs().amax((0, 2, 3))[:, None, None] + bias_C.abs()[:, None, None]
    for found in (there(x_BCHW), back(x_BCHW)):
        assert bool(((found - expected).abs() <= 1e-5 * size_C11 + 1e-30).all())


def test_the_formula_gives_the_old_weights() -> None:
    weight_C, bias_C = torch.tensor([3.0, -4.0, 0.0]), torch.tensor([1.0, 0.5, -2.0])
    new = convert(batch_norm(weight_C, bias_C))
    torch.testing.assert_close(new.scale * new.weight / (new.weight.norm() + 1e-6), weight_C)
    torch.testing.assert_close(new.scale, torch.tensor(5.0 + 1e-6))
    assert torch.equal(new.bias, bias_C)


def test_weights_of_zero_can_still_grow() -> None:
    new = convert(batch_norm(torch.zeros(3), torch.ones(3))).train()
    x_BCHW = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(new(x_BCHW), torch.ones(4, 3, 2, 2))
    new(x_BCHW).pow(3).sum().backward()
    assert new.scale.grad.item() != 0


def test_a_normalised_bias_needs_the_length_of_the_weight() -> None:
    normalised = {"name": "nbn", "bias": "normalised"}
    said = refused(batch_norm(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 4.0])), normalised)
    assert "lengths 5 and 4 at a.norm" in said
    assert "bias: free" in said
    old = batch_norm(torch.tensor([3.0, 4.0]), torch.tensor([-5.0, 0.0]))
    new, x_BCHW = convert(old, normalised), torch.randn(2, 2, 3, 3)
    torch.testing.assert_close(new(x_BCHW), old(x_BCHW), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(convert(new, "bn").bias, old.bias)


@pytest.mark.parametrize("norm", ["nbn", "ghost_bn", "sync_bn"])
def test_modes_types_and_momentum_are_kept(norm: str) -> None:
    old = nn.BatchNorm2d(4, eps=0.01, momentum=0.3).to(torch.bfloat16).train()
    old.running_var = torch.full((4,), 0.7)
    old.weight.requires_grad_(False)
    new = convert(old, norm)
    assert (new.eps, new.momentum, new.training) == (0.01, 0.3, True)
    assert new.weight.dtype == torch.bfloat16
    assert new.running_var.dtype == torch.float32
    assert torch.equal(new.running_var, old.running_var)
    assert new.running_var is not old.running_var
    frozen = {key for key, parameter in new.named_parameters() if not parameter.requires_grad}
    assert frozen == ({"weight", "scale"} if norm == "nbn" else {"weight"})
    named = convert(old, {"name": norm, "eps": 0.5, "momentum": 0.2})
    assert (named.eps, named.momentum) == (0.5, 0.2)


def test_missing_weights_start_at_one_and_zero() -> None:
    old = nn.BatchNorm2d(4, affine=False).eval()
    old.running_mean.fill_(2.0)
    x_BCHW = torch.randn(2, 4, 3, 3)
    for norm in ("nbn", "bn", "ghost_bn"):
        new = convert(old, norm)
        if norm == "bn":
            assert new is old
        torch.testing.assert_close(new(x_BCHW), old(x_BCHW), rtol=1e-5, atol=1e-5)


def test_without_running_statistics_batch_norms_stay_without() -> None:
    old, x_BCHW = nn.BatchNorm2d(4, track_running_stats=False).eval(), torch.randn(3, 4, 2, 2)
    new = convert(old, "ghost_bn")
    torch.testing.assert_close(new(x_BCHW), old(x_BCHW))
    assert set(new.state_dict()) == {"weight", "bias"}
    assert "running statistics" in refused(old)


def test_a_cumulative_average_is_kept_or_refused() -> None:
    old = nn.BatchNorm2d(4, momentum=None)
    assert convert(old, "ghost_bn").momentum is None
    assert "momentum" in refused(old)
    assert convert(old, {"name": "nbn", "momentum": 0.1}).momentum == 0.1


@pytest.mark.parametrize(
    "old", [nn.GroupNorm(2, 6), nn.InstanceNorm2d(6, affine=True), LayerNorm2d(6), nn.SyncBatchNorm(6)]
)
def test_other_norms_give_their_weights(old: nn.Module) -> None:
    assert is_norm(old)
    assert channels_of(old) == 6
    nn.init.normal_(old.weight)
    nn.init.normal_(old.bias)
    for norm in ("bn", "nbn", "in", "frn", "evonorm_b0"):
        new = convert(old, norm)
        torch.testing.assert_close(new.weight, old.weight)
        torch.testing.assert_close(new.bias, old.bias)


def test_evonorm_b0_takes_the_variance() -> None:
    old = nn.BatchNorm2d(4)
    old.running_var.uniform_(1, 2)
    assert torch.equal(convert(old, "evonorm_b0").running_var, old.running_var)


class Rectified(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class Named(nn.BatchNorm2d):
    """Only a name."""


class BatchNormAct2d(nn.BatchNorm2d):
    """As timm's is built."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def test_activations_are_never_dropped() -> None:
    for old in (Rectified(3), BatchNormAct2d(3, nn.ReLU())):
        assert is_norm(old)
        assert "activation" in refused(old)
    for name in ("frn", "evonorm_s0", "evonorm_b0"):
        assert "activation" in refused(NORMS[name]().plain(8), "bn")
    for old in (Named(3), BatchNormAct2d(3, nn.Identity())):
        assert type(convert(old)) is NormalisedBatchNorm2d


def test_what_is_attached_is_never_dropped() -> None:
    hooked = nn.BatchNorm2d(3)
    hooked.register_forward_hook(lambda *_: None)
    parametrised = nn.utils.parametrizations.weight_norm(nn.BatchNorm2d(3), dim=None)
    for old in (hooked, parametrised):
        assert "hooks" in refused(old)
    assert "channels" in refused(nn.LazyBatchNorm2d())


def test_a_users_norm_can_only_be_put_in_fresh() -> None:
    class Doubled(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    class DoubledSpec(BatchNormSpec.__mro__[1]):  # type: ignore[misc]  # NormSpec
        name: Literal["doubled"] = "doubled"

        def build(self, max_channels: int, generator: torch.Generator) -> BatchNorm:
            return BatchNorm(max_channels, 1e-5, 0.1)

        def plain(self, channels: int, generator: torch.Generator | None = None) -> nn.Module:
            return Doubled(channels)

    arguments = ("a", nn.BatchNorm2d(3), DoubledSpec(), torch.Generator(), torch.empty(0))
    with pytest.raises(InputError, match="keep=False"):
        converted(*arguments, keep=True)
    assert type(converted(*arguments, keep=False)) is Doubled


def test_norms_over_other_things_are_none() -> None:
    for module in (nn.BatchNorm1d(3), nn.BatchNorm3d(3), nn.LayerNorm(3), nn.RMSNorm(3), nn.Conv2d(3, 3, 1)):
        assert not is_norm(module)
