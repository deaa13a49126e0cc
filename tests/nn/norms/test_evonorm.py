"""What the EvoNorms share: where they start, and that they normalise as a whole."""

from __future__ import annotations

import pytest
import torch
from norm_cases import maps

from nasimb.nn.norms import NORMS


@pytest.mark.parametrize("name", ["evonorm_s0", "evonorm_b0"])
def test_the_size_of_the_input_does_not_matter(name: str) -> None:
    """It would if the nonlinearity were left out: then nothing is divided by a deviation."""
    plain, x_BCHW = NORMS[name]().plain(8), maps(8, mean=0.0)
    small, large = (float(plain(x_BCHW.detach() * size).detach().std()) for size in (10, 1000))
    assert small == pytest.approx(large, rel=0.3)
    assert {parameter: tensor.tolist() for parameter, tensor in plain.named_parameters()} == {
        "weight": [1.0] * 8, "bias": [0.0] * 8, "v": [1.0] * 8
    }  # fmt: skip
    assert torch.isfinite(plain(torch.zeros(2, 8, 3, 3))).all()
