"""Channel statistics as values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nasimb.nn.moments import batch_moments, given, merged, moments


def test_moments_are_the_mean_and_the_biased_variance_over_images_and_pixels() -> None:
    x_BCHW = torch.randn(5, 3, 4, 6, generator=torch.Generator().manual_seed(0)) * 7 + 3
    found = moments(x_BCHW)
    expected = x_BCHW.numpy().astype(np.float64)
    np.testing.assert_allclose(found.mean_C.numpy(), expected.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found.var_C.numpy(), expected.var((0, 2, 3)), rtol=1e-6)


def test_moments_of_many_images_are_exact() -> None:
    """A million pixels a channel, far from zero: sums in float32 that are not pairwise lose four digits here."""
    x_BCHW = torch.randn(1000, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5 + 4
    for layout in (torch.contiguous_format, torch.channels_last):
        found = moments(x_BCHW.contiguous(memory_format=layout))
        expected = x_BCHW.numpy().astype(np.float64)
        np.testing.assert_allclose(found.mean_C.numpy(), expected.mean((0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(found.var_C.numpy(), expected.var((0, 2, 3)), rtol=1e-6)


def test_moments_of_bfloat16_are_computed_in_float32() -> None:
    x_BCHW = (torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(0)) + 100).bfloat16()
    found = moments(x_BCHW)
    assert found.mean_C.dtype == found.var_C.dtype == torch.float32
    expected = x_BCHW.float().numpy().astype(np.float64)
    np.testing.assert_allclose(found.var_C.numpy(), expected.var((0, 2, 3)), rtol=1e-5)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    whole_BCHW = (
        50
        + torch.randn(37, 3, 5, 4, generator=torch.Generator().manual_seed(0))
        * torch.arange(1.0, 38)[:, None, None, None]
    )
    parts = torch.split(whole_BCHW, [1, 20, 16])
    found = merged([moments(part) for part in parts], [part.numel() // 3 for part in parts])
    expected = whole_BCHW.numpy().astype(np.float64)
    np.testing.assert_allclose(found.mean_C.numpy(), expected.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found.var_C.numpy(), expected.var((0, 2, 3)), rtol=1e-5)


def test_given_statistics_do_not_depend_on_the_batch() -> None:
    written = {"stage1.norm": moments(torch.randn(4, 2, 3, 3))}
    assert given(written)("stage1.norm", torch.zeros(1, 2, 1, 1)) is written["stage1.norm"]
    assert batch_moments("stage1.norm", torch.zeros(4, 2, 3, 3)) is None


def test_statistics_of_another_subnet_are_refused() -> None:
    with pytest.raises(KeyError, match=r"stage2\.norm"):
        given({})("stage2.norm", torch.zeros(1, 2, 1, 1))
