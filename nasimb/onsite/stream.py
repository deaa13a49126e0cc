"""The images of a site through the model as it is and through its adapter, batch by batch.

Shapes: B images of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nasimb.adapt import BatchNormAdapter, Entry
from nasimb.adapt.passes import Passes
from nasimb.adapt.profile import ClassProfile
from nasimb.export import Model
from nasimb.nn.mixing import Sampled, sampled
from nasimb.onsite.images import Site
from nasimb.session import Stop


@dataclass(frozen=True, eq=False)
class Seen:
    """One batch.

    Attributes:
        positions_B: of its images in the site.
        entry: what the adapter did with it.
        source_BK, adapted_BK: probabilities of the model as it is, and of the adapter; on the CPU.
        layers: what the unadapted layers saw of it, by name.
    """

    positions_B: Tensor
    entry: Entry
    source_BK: Tensor
    adapted_BK: Tensor
    layers: Mapping[str, Sampled]


def stream(
    model: Model, adapter: BatchNormAdapter, site: Site, *, batch_size: int, device: torch.device, stop: Stop
) -> Iterator[Seen]:
    """Every batch in the order of the site; ends early once `stop` gives a signal."""
    profile: ClassProfile | None = adapter.profile
    passes = Passes(model, None if profile is None else profile.outputs())
    for images_BCHW, positions_B in site.images.batches(batch_size, device):
        layers: dict[str, Sampled] = {}

        def seen(name: str, x_BCHW: Tensor, into: dict[str, Sampled] = layers) -> None:
            into[name] = sampled(x_BCHW)

        source_BK = passes.run(images_BCHW, seen).softmax(1).cpu()
        adapted_BK = adapter(images_BCHW).softmax(1).cpu()
        entry = adapter.newest
        assert entry is not None
        yield Seen(positions_B, entry, source_BK, adapted_BK, layers)
        if stop():
            return
