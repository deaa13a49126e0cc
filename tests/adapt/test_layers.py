"""Which norms are adapted, how their maps are read, and what moving their outputs gives."""

from __future__ import annotations

import pytest
import timm.layers
import torch
import torchvision
from torch import Tensor, nn

from nasimb.adapt import BatchNormAdapter, class_profile
from nasimb.adapt.layers import Layer, adaptable
from nasimb.errors import InputError
from nasimb.nn.moments import Moments
from nasimb.nn.norms.evonorm_b0 import PlainEvoNormB0

C = 6


class ChannelsLast(nn.Module):
    """A norm over the last axis, for maps."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class Pooled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


def with_norm(norm: nn.Module, axes: int) -> nn.Sequential:
    """A convolution, the norm and a classifier, on images of so many axes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolution = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[axes](2, C, 3, padding=1)
        model = nn.Sequential(convolution, norm, nn.ReLU(), Pooled(), nn.Linear(C, 3))
        for module in model.modules():
            if getattr(module, "affine", False) or getattr(module, "elementwise_affine", False):
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    return model.eval()


def images(axes: int, seed: int = 1) -> Tensor:
    shape = (24, 2, 7, 4, 5)[:axes]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) + torch.randn(24, 2, *[1] * (axes - 2), generator=generator)


def per_channel(x: Tensor) -> Moments:
    """By torch over all axes but the second."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    return Moments(x.mean(axes), x.var(axes, correction=0))


RUNNING = [
    (nn.BatchNorm1d(C), 3),
    (nn.BatchNorm2d(C), 4),
    (nn.BatchNorm3d(C), 5),
    (nn.SyncBatchNorm(C), 4),
    (timm.layers.BatchNormAct2d(C), 4),
    (nn.InstanceNorm2d(C, affine=True, track_running_stats=True), 4),
]


@pytest.mark.parametrize(("norm", "axes"), RUNNING, ids=lambda value: type(value).__name__)
def test_a_norm_with_running_statistics_gets_those_of_its_inputs(norm: nn.Module, axes: int) -> None:
    model, x = with_norm(norm, axes), 3 * images(axes) + 1
    adapter = BatchNormAdapter(model, "batch", safety=None)
    found = adapter(x)
    with torch.no_grad():
        expected = per_channel(model[0](x))
        model[1].running_mean.copy_(expected.mean_C)
        model[1].running_var.copy_(expected.var_C)
        torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-5)
    assert adapter.layers == ("1",)


@pytest.mark.parametrize("norm", [PlainEvoNormB0(C, 1e-5, 0.1), timm.layers.EvoNorm2dB0(C)], ids=["own", "timm"])
@pytest.mark.parametrize("strategy", ["batch", "mean-step:0.5"])
def test_a_norm_that_holds_a_variance_alone_gets_one_without_its_mean(norm: nn.Module, strategy: str) -> None:
    model, x = with_norm(norm, 4), images(4)
    with torch.no_grad():
        model[0].bias += 5
        norm.v.zero_()  # the larger of two deviations divides, the batch's
        before_C, target_C = norm.running_var.clone(), per_channel(model[0](x)).var_C
    adapter = BatchNormAdapter(model, strategy, safety=None)
    found = adapter(x)
    with torch.no_grad():
        norm.running_var.copy_(target_C if strategy == "batch" else (before_C + target_C) / 2)
        torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-5)
        norm.running_var.copy_(before_C)


OVER_IMAGES = [
    (nn.GroupNorm(2, C), 4),
    (nn.GroupNorm(3, C), 3),
    (nn.GroupNorm(1, C), 5),
    (timm.layers.GroupNorm1(C), 4),
    (timm.layers.LayerNorm2d(C), 4),
    (torchvision.models.convnext.LayerNorm2d(C), 4),
    (timm.layers.LayerNormAct2d(C), 4),
    (ChannelsLast(nn.LayerNorm(C)), 3),
    (ChannelsLast(nn.LayerNorm(C)), 4),
    (ChannelsLast(nn.LayerNorm(C)), 5),
]


@pytest.mark.parametrize(("norm", "axes"), OVER_IMAGES, ids=lambda value: type(value).__name__)
def test_outputs_of_norms_over_images_get_the_moments_that_they_have_in_training(norm: nn.Module, axes: int) -> None:
    model, x = with_norm(norm, axes), images(axes)
    profile = class_profile(model, x, torch.arange(len(x)) % 3)
    adapter = BatchNormAdapter(model, "batch", profile=profile, safety=None)
    # From the adapter's own copy: what the norm gives to the next layer.
    following = dict(adapter._passes.model.named_modules())["2"]
    given: list[Tensor] = []
    following.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    adapter(0.4 * x.flip(1) + 1)
    with torch.no_grad():
        usual = per_channel(model[1](model[0](x)))
        shifted = per_channel(model[1](model[0](0.4 * x.flip(1) + 1)))
    found = per_channel(given[0])
    assert (shifted.mean_C - usual.mean_C).abs().max() > 0.1
    torch.testing.assert_close(found.mean_C, usual.mean_C, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.var_C, usual.var_C, rtol=1e-3, atol=1e-3)


def test_maps_of_channels_last_layers_are_read_channel_by_channel() -> None:
    x = images(4)
    source = Moments(torch.zeros(2), torch.ones(2))
    layer = Layer("n", nn.LayerNorm(2), source, running=False)
    assert torch.equal(layer.maps(x.movedim(1, -1)), x)
    plain = Layer("n", nn.BatchNorm2d(2), source, running=True)
    assert plain.maps(x) is x
    assert plain.maps(x[:, :, 0, 0]).shape == (24, 2, 1, 1)
    assert torch.equal(plain.maps(images(5)).flatten(2), images(5).flatten(2))


def test_a_layer_norm_over_pixels_has_no_channels() -> None:
    model = with_norm(nn.Sequential(nn.LayerNorm([C, 7, 4]), nn.BatchNorm2d(C)), 4)
    profile = class_profile(model, images(4), torch.arange(24) % 3)
    assert list(profile.layers) == ["1.1"]


@pytest.mark.parametrize(
    ("norm", "got", "do"),
    [
        (nn.Identity(), "no norms", "Put batch norms in"),
        (nn.InstanceNorm2d(C), "1 InstanceNorm2d", "Put batch norms in"),
        (nn.BatchNorm2d(C, track_running_stats=False), "1 BatchNorm2d", "track_running_stats=True"),
        (nn.GroupNorm(2, C), "1 GroupNorm", "profile=class_profile"),
        (timm.layers.LayerNorm2d(C), "1 LayerNorm2d", "profile=class_profile"),
    ],
)
def test_a_model_with_nothing_to_adapt_is_refused_and_told_why(norm: nn.Module, got: str, do: str) -> None:
    with pytest.raises(InputError, match=f"norms with running statistics; got {got}.*{do}"):
        BatchNormAdapter(with_norm(norm, 4))


def test_a_shared_layer_is_one_and_none_is_found_twice() -> None:
    norm = nn.BatchNorm2d(C)
    assert [layer.name for layer in adaptable(nn.Sequential(norm, nn.ReLU(), norm))] == ["0"]
