"""Combined settings against every setting on its own."""

from __future__ import annotations

import pytest
import torch

from nasimb.heads import grid as grid_module
from nasimb.heads.grid import Grid, products
from nasimb.heads.ridge import RidgeSpec

SETTINGS = torch.logspace(-6, 2, 25, dtype=torch.float64)


@pytest.mark.parametrize("low", [-12.0, -3.0, -0.5])
def test_combined_settings_give_each_settings_products(low: float) -> None:
    eigenvalues_D = torch.logspace(low, 1, 40, dtype=torch.float64)
    diagonals_SD = 1.0 / (eigenvalues_D + SETTINGS[:, None])
    grid = Grid.of(SETTINGS.tolist(), (0.0,), diagonals_SD)
    generator = torch.Generator().manual_seed(0)
    # As in a head: coordinates along a direction vary by the root of its eigenvalue.
    rows_PD = torch.randn(3, 40, generator=generator, dtype=torch.float64) * eigenvalues_D.sqrt()
    columns_DB = torch.randn(40, 9, generator=generator, dtype=torch.float64) * eigenvalues_D.sqrt()[:, None]
    expected_SPB = products(diagonals_SD, rows_PD, columns_DB)
    assert torch.allclose(expected_SPB, torch.einsum("sd,pd,db->spb", diagonals_SD, rows_PD, columns_DB), rtol=1e-10)
    found_SPB = torch.cat([one for _, one in grid.products(rows_PD, columns_DB)])
    assert torch.allclose(found_SPB, expected_SPB, rtol=0.0, atol=1e-12 * float(expected_SPB.abs().max()))


def test_a_narrow_spectrum_needs_few_products_and_a_short_grid_all() -> None:
    diagonals_SD = 1.0 / (torch.linspace(0.2, 3.0, 40, dtype=torch.float64) + SETTINGS[:, None])
    narrow = Grid.of(SETTINGS.tolist(), (0.0,), diagonals_SD)
    assert narrow.basis_RD is not None
    assert len(narrow.basis_RD) <= 14
    assert Grid.of((1.0,), (0.0,), diagonals_SD[:1]).basis_RD is None


def test_groups_stay_within_the_memory_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(grid_module.__dict__, "part_bytes", lambda device: 8 * 6 * 4)
    diagonals_SD = 1.0 / (torch.linspace(0.2, 3.0, 5, dtype=torch.float64) + SETTINGS[:, None])
    grid = Grid.of(SETTINGS.tolist(), (0.0,), diagonals_SD)
    rows_PD, columns_DB = torch.ones(2, 5, dtype=torch.float64), torch.ones(5, 3, dtype=torch.float64)
    groups = list(grid.products(rows_PD, columns_DB))
    assert [len(one) for _, one in groups] == [4, 4, 4, 4, 4, 4, 1]
    assert [group.start for group, _ in groups] == list(range(0, 25, 4))


def test_leave_one_out_by_combined_settings_is_that_of_each_setting() -> None:
    generator = torch.Generator().manual_seed(1)
    for images, dimension in ((200, 20), (30, 60)):
        labels_N = torch.arange(images) % 4
        features_ND = torch.randn(images, dimension, generator=generator) + labels_N[:, None] * 0.3
        penalties = tuple(SETTINGS.tolist())
        together = RidgeSpec(grid=penalties).score(features_ND, labels_N, 4)
        for found, penalty in zip(together, penalties, strict=True):
            (alone,) = RidgeSpec(grid=(penalty,)).score(features_ND, labels_N, 4)
            assert torch.equal(found.predicted_N, alone.predicted_N)
            assert found.balanced_loss == pytest.approx(alone.balanced_loss, rel=1e-7)
