"""`safetensors`: the model as nasimb keeps it, for `nasimb.load`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nasimb.deliver.formats.base import Format, Runner
from nasimb.deliver.network import Shipped
from nasimb.export import WEIGHTS, load, save


class Safetensors(Format):
    """Weights and description; `nasimb.load` makes the network of them, with its preprocessing."""

    file = WEIGHTS
    always_prepares = True

    def write(self, shipped: Shipped, metadata: Mapping[str, str], path: Path) -> None:
        """Write the pair of files; the description has all that `metadata` say."""
        save(shipped.model, path.parent)

    def runner(self, path: Path) -> Runner:
        """The model, loaded anew."""
        model = load(path.parent)

        @torch.no_grad()
        def run(images: Tensor) -> Tensor:
            return torch.as_tensor(model(images))

        return run
