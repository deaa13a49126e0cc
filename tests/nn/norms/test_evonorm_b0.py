"""EvoNorm-B0 is timm's, in training and with a given variance."""

from __future__ import annotations

import pytest
import torch
from norm_cases import MAX_CHANNELS, assert_same_layer, maps, moved, with_leading
from timm.layers import EvoNorm2dB0
from torch import Generator

from nasimb.nn.moments import Moments, moments
from nasimb.nn.norms.evonorm_b0 import EvoNormB0Spec

SPEC = EvoNormB0Spec(eps=1e-3, momentum=0.3)


@pytest.mark.parametrize("channels", [1, 5, 12])
def test_training_is_timms(channels: int) -> None:
    norm, x_BCHW = moved(SPEC.build(MAX_CHANNELS, Generator())), maps(channels)
    assert_same_layer(norm, with_leading(EvoNorm2dB0(channels), norm), norm(x_BCHW, None), x_BCHW)


def test_with_a_given_variance_it_is_timms_with_a_running_one() -> None:
    norm, x_BCHW, found = moved(SPEC.build(MAX_CHANNELS, Generator())), maps(7), moments(maps(7, seed=2).detach())
    expected = with_leading(EvoNorm2dB0(7), norm).eval()
    expected.running_var.copy_(found.var_C)
    assert_same_layer(norm, expected, norm(x_BCHW, found), x_BCHW)
    elsewhere = Moments(found.mean_C + 100, found.var_C)  # the mean has no part in it
    assert torch.equal(norm(x_BCHW, elsewhere), norm(x_BCHW, found))


def test_the_plain_layer_keeps_the_running_variance_that_timms_keeps() -> None:
    plain, expected = SPEC.plain(7), EvoNorm2dB0(7, momentum=0.3)
    for seed in range(3):
        x_BCHW = maps(7, seed)
        assert_same_layer(plain, expected, plain(x_BCHW), x_BCHW)
        plain.zero_grad()
        expected.zero_grad()
    torch.testing.assert_close(plain.running_var, expected.running_var)
    x_BCHW = maps(7, 5)
    torch.testing.assert_close(plain.eval()(x_BCHW), expected.eval()(x_BCHW))
    assert "running_mean" not in plain.state_dict()
