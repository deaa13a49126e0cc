"""`torch-export`: a program for torch.export.load, without nasimb."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nasimb.deliver.formats.base import Format, Runner
from nasimb.deliver.network import Shipped


class TorchExport(Format):
    """`torch.export.load("model.pt2").module()(images)`; the metadata are extra files of their names."""

    file = "model.pt2"

    def write(self, shipped: Shipped, metadata: Mapping[str, str], path: Path) -> None:
        """Capture the network with a free batch dimension."""
        program = torch.export.export(
            shipped.network, (shipped.example(),), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
        )
        torch.export.save(program, path, extra_files=dict(metadata))

    def runner(self, path: Path) -> Runner:
        """The program, in this torch."""
        network = torch.export.load(path).module()

        @torch.no_grad()
        def run(images: Tensor) -> Tensor:
            return torch.as_tensor(network(images))

        return run
