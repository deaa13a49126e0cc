"""Channel statistics as values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nasimb.nn.moments import batch_moments, given, merged, moments, synchronised


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


def test_synchronised_moments_are_those_of_all_processes() -> None:
    """This process has 5 images, another (played by the function that sums) 3 of other values, far from zero."""
    generator = torch.Generator().manual_seed(0)
    own_BCHW = torch.randn(5, 3, 4, 6, generator=generator) * 2 + 1000
    other_BCHW = torch.randn(3, 3, 4, 6, generator=generator) + 1003
    sent = []

    def summed_(tensor: torch.Tensor) -> torch.Tensor:
        sent.append(tensor.clone())
        values = other_BCHW.double()
        other = [values.sum((0, 2, 3)), (values**2).sum((0, 2, 3)), torch.tensor([72.0], dtype=torch.float64)]
        return tensor.add_(torch.cat(other))

    found = synchronised(summed_)("stage1.norm", own_BCHW)
    assert found is not None
    assert len(sent) == 1
    whole = torch.cat([own_BCHW, other_BCHW]).numpy().astype(np.float64)
    np.testing.assert_allclose(found.mean_C.numpy(), whole.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found.var_C.numpy(), whole.var((0, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_slopes_of_all_processes_lead_back_through_synchronised_moments(
    dtype: torch.dtype, tolerance: float
) -> None:
    """Two processes that hold the same images: moments as of one, slopes of the moments twice as steep."""
    x_BCHW = (torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(0)) + 2).to(dtype).requires_grad_(True)
    pull_2C = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    found = synchronised(lambda tensor: tensor.mul_(2))("stage1.norm", x_BCHW)
    assert found is not None
    torch.autograd.backward(((found.mean_C * pull_2C[0]) + (found.var_C * pull_2C[1])).sum())

    twice = torch.cat([x_BCHW.detach(), x_BCHW.detach()]).double().requires_grad_(True)
    variance_C, mean_C = torch.var_mean(twice, (0, 2, 3), correction=0)
    torch.autograd.backward(2 * ((mean_C * pull_2C[0]) + (variance_C * pull_2C[1])).sum())
    assert x_BCHW.grad is not None
    assert twice.grad is not None
    assert x_BCHW.grad.dtype == dtype
    torch.testing.assert_close(x_BCHW.grad.double(), twice.grad[:4], rtol=tolerance, atol=tolerance)
