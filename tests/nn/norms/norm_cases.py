"""Maps and norms for the tests beside this file."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

MAX_CHANNELS = 12

Module = TypeVar("Module", bound=nn.Module)


def maps(channels: int, seed: int = 0, *, images: int = 6, mean: float = 1.0) -> Tensor:
    """x_BCHW that lets gradients be taken."""
    generator = torch.Generator().manual_seed(seed)
    x_BCHW = torch.randn(images, channels, 5, 4, generator=generator) * 3 + mean
    return x_BCHW.requires_grad_()


def moved(module: Module, seed: int = 1) -> Module:
    """With parameters that are no longer those it started with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def assert_same_layer(found: nn.Module, expected: nn.Module, found_BCHW: Tensor, x_BCHW: Tensor) -> None:
    """Outputs, and gradients for the input and every parameter of the same name; `found_BCHW` is found's output.

    Args:
        x_BCHW: the input that `found_BCHW` was computed from.
    """
    channels = x_BCHW.shape[1]
    same_BCHW = x_BCHW.detach().clone().requires_grad_()
    expected_BCHW = expected(same_BCHW)
    torch.testing.assert_close(found_BCHW, expected_BCHW, rtol=1e-4, atol=1e-5)
    pull_BCHW = torch.randn(x_BCHW.shape, generator=torch.Generator().manual_seed(9))
    torch.autograd.backward((found_BCHW * pull_BCHW).sum())
    torch.autograd.backward((expected_BCHW * pull_BCHW).sum())
    torch.testing.assert_close(x_BCHW.grad, same_BCHW.grad, rtol=1e-3, atol=1e-4)
    own = dict(found.named_parameters())
    for name, parameter in expected.named_parameters():
        gradient = own[name].grad
        assert gradient is not None
        torch.testing.assert_close(gradient[:channels], parameter.grad, rtol=1e-3, atol=1e-3, msg=name)
        assert torch.count_nonzero(gradient[channels:]) == 0


def with_leading(expected: Module, norm: nn.Module) -> Module:
    """`expected` with the leading entries of the parameters of a wider `norm`."""
    own = dict(norm.named_parameters())
    with torch.no_grad():
        for name, parameter in expected.named_parameters():
            parameter.copy_(own[name][: len(parameter)])
    return expected
