"""The norms of a model whose statistics can be adapted: where they are, what they hold, how their inputs are read.

Two kinds. Batch norms hold running statistics of their inputs: adapting means to write others. Group and layer norms
hold none, since each image has its own; what can be adapted there are the moments of their *outputs*, channel by
channel over images, which a profile of the source knows: outputs are moved and stretched until they have them again.
Instance norms leave nothing to adapt: every channel of every image has mean 0 and variance 1 already.

Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nasimb.errors import InputError
from nasimb.nn.moments import Moments


def channels_over_images(module: nn.Module) -> int | None:
    """Channels of a group or layer norm whose outputs have moments channel by channel; None: it is something else.

    A layer norm over pixels too has weights of their own for them, and no channels.
    """
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return module.normalized_shape[0]
    return None


@dataclass(frozen=True, eq=False)
class Layer:
    """One norm that can be adapted.

    Attributes:
        name: its path in the model.
        module: of the model itself, not of a copy.
        source: moments that it has from training: of its inputs (batch norms) or of its outputs (group, layer norms).
        running: whether it normalises with statistics that it holds.
        knows_mean: whether `source` has a mean; EvoNorm-B0 holds a variance alone, and means 0 stand there.
    """

    name: str
    module: nn.Module
    source: Moments
    running: bool
    knows_mean: bool = True

    def source_beside(self, x_BCHW: Tensor) -> Moments:
        """Moments from training; a mean that is not known is taken to be that of these maps."""
        return self.source if self.knows_mean else Moments(x_BCHW.float().mean((0, 2, 3)), self.source.var_C)

    def maps(self, x: Tensor) -> Tensor:
        """Inputs or outputs of the layer as maps_BCHW, whatever axes it has; a view where torch can make one."""
        if _channels_last(self.module):
            x = x.movedim(-1, 1)
        if x.ndim == 4:
            return x
        return x.reshape(*x.shape[:2], -1, 1)

    def held(self) -> dict[str, Tensor]:
        """Statistics that a batch norm normalises with, by name."""
        buffers = {name: self.module._buffers.get(name) for name in ("running_mean", "running_var")}
        return {name: buffer for name, buffer in buffers.items() if buffer is not None}

    @torch.no_grad()
    def write(self, moments: Moments) -> None:
        """Let a batch norm normalise with these from now on."""
        assert self.running
        told = {"running_mean": moments.mean_C, "running_var": moments.var_C}
        for name, buffer in self.held().items():
            buffer.copy_(told[name])

    def moved(self, y: Tensor, moments: Moments) -> Tensor:
        """Outputs of a group or layer norm, whose moments are `moments`, with those of the source."""
        scale_C = ((self.source.var_C + EPSILON) / (moments.var_C + EPSILON)).sqrt()
        offset_C = self.source.mean_C - moments.mean_C * scale_C
        shape = [1] * y.ndim
        shape[-1 if _channels_last(self.module) else 1] = len(scale_C)
        return y * scale_C.to(y.dtype).view(shape) + offset_C.to(y.dtype).view(shape)


EPSILON = 1e-5
"""Added to variances that divide, as in the norms themselves."""


def adaptable(model: nn.Module, outputs: Mapping[str, Moments] | None = None) -> list[Layer]:
    """The norms of `model` that can be adapted, in the order of its modules.

    Args:
        outputs: moments of the outputs of group and layer norms, by name, as a profile has them; None: these norms
            are left alone.

    Raises:
        InputError: there is none, with what there is instead.
    """
    outputs = outputs or {}
    found = []
    for name, module in model.named_modules():
        variance = module._buffers.get("running_var")
        if variance is not None and variance.numel():
            mean = module._buffers.get("running_mean")
            mean_C = torch.zeros_like(variance) if mean is None else mean
            source = Moments(mean_C.float().clone(), variance.float().clone())
            found.append(Layer(name, module, source, running=True, knows_mean=mean is not None))
        elif name in outputs and channels_over_images(module) is not None:
            moments = outputs[name]
            device = next((parameter.device for parameter in module.parameters()), moments.mean_C.device)
            found.append(
                Layer(name, module, Moments(moments.mean_C.to(device), moments.var_C.to(device)), running=False)
            )
    if not found:
        raise _nothing_to_adapt(model)
    return found


def _nothing_to_adapt(model: nn.Module) -> InputError:
    kinds = Counter(type(module).__name__ for module in model.modules() if "Norm" in type(module).__name__)
    seen = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4)) or "no norms"
    if any(channels_over_images(module) is not None for module in model.modules()):
        do = "Group and layer norms need a profile of the source: profile=class_profile(model, images, labels)."
    elif any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        do = "Train with track_running_stats=True: without statistics of the source every batch is adapted to anyway."
    else:
        do = "Put batch norms in, or use the model as it is: other layers have no statistics of the images."
    return InputError("a model to adapt must have norms with running statistics", got=seen, do=do)


def _channels_last(module: nn.Module) -> bool:
    """Layer norms, but for torchvision's and timm's that take maps: known by their names, as importing takes long."""
    return isinstance(module, nn.LayerNorm) and "2d" not in type(module).__name__
