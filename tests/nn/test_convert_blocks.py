"""Which norms end branches, by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import SqueezeExcitation, StochasticDepth

from nasimb.nn.convert_blocks import branch_ends
from nasimb.nn.convert_layer import is_norm


class Net(nn.Module):
    """Norms a and b, and a forward pass of one's own."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.conv = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.drop, self.depth, self.gate = nn.Dropout(), StochasticDepth(0.5, "row"), SqueezeExcitation(4, 2)
        self.way = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        (lambda net, x: x + net.b(net.conv(net.a(x))), ["b"]),
        (lambda net, x: net.b(net.conv(x)) + net.a(x), ["b", "a"]),
        (lambda net, x: torch.add(x, net.a(x)), ["a"]),
        (lambda net, x: net.a(x).add_(x), ["a"]),
        (lambda net, x: net.conv(x).add(net.a(x)), ["a"]),
        (lambda net, x: x + net.depth(net.drop(net.a(x))), ["a"]),
        (lambda net, x: x + net.gate(net.a(x)), ["a"]),
        (lambda net, x: x + 0.2 * net.a(x), ["a"]),
        (lambda net, x: x + net.a(x).relu(), []),
        (lambda net, x: x + net.conv(net.a(x)), []),
        (lambda net, x: net.a(x) + 1.0, []),
        (lambda net, x: torch.cat([net.a(x), net.b(x)]), []),
        (lambda net, x: (y := net.a(x)) + net.b(net.conv(y)), ["b"]),  # a belongs to the block before
        (lambda net, x: (y := x + net.a(x)) + net.a(net.conv(y)), ["a"]),
    ],
)
def test_the_ends_of_branches(way: Callable[[Net, Tensor], Tensor], expected: list[str]) -> None:
    assert branch_ends(Net(way), is_norm) == expected


def test_a_layer_that_is_no_part_of_torch_is_looked_for_whole() -> None:
    class Own(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            if input.sum() > 0:  # cannot be traced
                return super().forward(input)
            return input

    net = Net(lambda net, x: x + net.a(x))
    net.a = Own(4)
    assert branch_ends(net, is_norm) == ["a"]


def test_strided_blocks_without_addition_have_no_end() -> None:
    model = models.mobilenet_v2()
    added = [
        f"features.{place}.conv.3"
        for place, block in enumerate(model.features)
        if getattr(block, "use_res_connect", False)
    ]
    assert branch_ends(model, is_norm) == added


def test_the_model_is_left_as_it_was() -> None:
    model = models.resnet18().train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    branch_ends(model, is_norm)
    assert [module.training for module in model.modules()] == modes
