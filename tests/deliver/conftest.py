from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nasimb.export import Description, Model
from nasimb.heads.head import CosineHead
from nasimb.space import SearchSpace
from nasimb.supernet import build_supernet
from nasimb.supernet.calibrate import calibrate

SIZE = 8


@pytest.fixture(scope="session")
def images_N3HW() -> Tensor:
    """40 colour images of 8 x 8 pixels."""
    return torch.randint(0, 256, (40, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture(scope="session")
def make_model(images_N3HW: Tensor) -> Callable[..., Model]:
    """Builds a small colour model of three classes, calibrated, with norms that do something."""

    def make(norm: str = "bn", *, resolution: int = 6, cosine: bool = False, depth: int = 2) -> Model:
        options = {} if norm == "bn" else {"mine_1": {"name": norm, "where": "all"}}
        stage = {"depths": [depth], "widths": [12], "norms": [*options] or ["bn"]}
        values = {"name": "s", "backbone": "resnet", "stem_width": 4, "resolutions": sorted({resolution, SIZE}),
                  "stages": [stage, {**stage, "stride": 2}], "taps": [2]}  # fmt: skip
        space = SearchSpace.model_validate({**values, "norm_options": options})
        generator = torch.Generator().manual_seed(0)
        mean_C, std_C = torch.tensor([90.0, 100.0, 110.0]), torch.tensor([50.0, 60.0, 70.0])
        supernet = build_supernet(space, 3, 3, mean_C, std_C, generator)
        with torch.no_grad():
            for parameter in (one for one in supernet.parameters() if one.ndim <= 1):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        largest = space.largest().to_dict()
        subnet = type(space.largest()).from_dict({**largest, "resolution": resolution})
        backbone = supernet.extract(subnet, calibrate(supernet, subnet, images_N3HW))
        head: nn.Module = nn.Linear(24, 3)
        weight_KD = torch.randn(3, 24, generator=generator)
        head.load_state_dict({"weight": weight_KD, "bias": torch.tensor([0.0, 0.5, -1e9])})
        if cosine:
            head = CosineHead(weight_KD, torch.zeros(3), torch.zeros(24), torch.ones(24), torch.tensor(8.0))
        about = {"name": "ridge", "setting": 0.1}
        description = Description(("a", "<b>|x", "never"), (120, 7, 0), 3, SIZE, space, subnet, "source", about)
        return Model(backbone, head, description)

    return make
