"""Products of every setting, in groups."""

from __future__ import annotations

import pytest
import torch

from nasimb.heads import grid as grid_module
from nasimb.heads.grid import Grid

SETTINGS = torch.logspace(-6, 2, 25, dtype=torch.float64)


def test_products_are_those_of_every_setting() -> None:
    generator = torch.Generator().manual_seed(0)
    diagonals_SD, rows_PD, columns_DB = (
        torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in ((25, 40), (3, 40), (40, 9))
    )
    found_SPB = torch.cat(
        [one for _, one in Grid(SETTINGS.tolist(), (0.0,), diagonals_SD).products(rows_PD, columns_DB)]
    )
    assert torch.allclose(found_SPB, torch.einsum("sd,pd,db->spb", diagonals_SD, rows_PD, columns_DB), rtol=1e-12)


def test_groups_stay_within_the_memory_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "part_bytes", lambda device: 8 * 6 * 4)
    diagonals_SD = 1.0 / (torch.linspace(0.2, 3.0, 5, dtype=torch.float64) + SETTINGS[:, None])
    grid = Grid(SETTINGS.tolist(), (0.0,), diagonals_SD)
    rows_PD, columns_DB = torch.ones(2, 5, dtype=torch.float64), torch.ones(5, 3, dtype=torch.float64)
    groups = list(grid.products(rows_PD, columns_DB))
    assert [len(one) for _, one in groups] == [4, 4, 4, 4, 4, 4, 1]
    assert [group.start for group, _ in groups] == list(range(0, 25, 4))
