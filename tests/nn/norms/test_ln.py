"""Layer normalisation over channels and pixels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from norm_cases import MAX_CHANNELS, assert_same_layer, maps, moved, with_leading
from torch import Generator, nn

from nasimb.nn.norms.ln import LayerNormSpec


@pytest.mark.parametrize("channels", [1, 5, 12])
def test_forward_and_gradients_are_those_of_one_group(channels: int) -> None:
    norm = moved(LayerNormSpec().build(MAX_CHANNELS, Generator()))
    expected, x_BCHW = with_leading(nn.GroupNorm(1, channels), norm), maps(channels)
    assert_same_layer(norm, expected, norm(x_BCHW, None), x_BCHW)


def test_fresh_it_is_torchs_layer_norm_over_all_of_an_image() -> None:
    x_BCHW = maps(7)
    expected = F.layer_norm(x_BCHW, x_BCHW.shape[1:])
    torch.testing.assert_close(LayerNormSpec().plain(7)(x_BCHW), expected, rtol=1e-4, atol=1e-5)
