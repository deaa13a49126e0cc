"""One norm becomes another: what counts as a norm, what it keeps, and what cannot be kept.

Shapes: C channels.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from nasimb.errors import InputError
from nasimb.nn.norms.base import NormSpec
from nasimb.nn.norms.evonorm import EvoParameters
from nasimb.nn.norms.frn import PlainFilterResponseNorm
from nasimb.nn.norms.ghost_bn import PlainGhostBatchNorm
from nasimb.nn.norms.instance import PlainInstanceNorm
from nasimb.nn.norms.nbn import FLOOR, NormalisedBatchNorm2d, effective

BATCH = (nn.BatchNorm2d, nn.SyncBatchNorm)
ACTIVATING = (EvoParameters, PlainFilterResponseNorm)
OURS = (PlainGhostBatchNorm, NormalisedBatchNorm2d, PlainInstanceNorm)
SAME_LENGTH = 1e-5
"""Relative difference of the lengths of two vectors up to which one scalar stands for both."""


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises maps, channel by channel or in groups of them."""
    kinds = (*BATCH, *ACTIVATING, nn.GroupNorm, nn.InstanceNorm2d, nn.LazyBatchNorm2d, nn.LazyInstanceNorm2d)
    return isinstance(module, kinds) or _is_layer_norm_2d(module)


def channels_of(norm: nn.Module) -> int:
    """Channels of the maps that a norm takes."""
    if isinstance(norm, ACTIVATING):
        return len(norm.weight)
    if isinstance(norm, nn.GroupNorm):
        return norm.num_channels
    if isinstance(norm, nn.LayerNorm):
        return norm.normalized_shape[0]
    return cast(int, cast(Any, norm).num_features)


@torch.no_grad()
def converted(
    name: str, old: nn.Module, spec: NormSpec, generator: torch.Generator, blank: Tensor, *, keep: bool
) -> nn.Module:
    """A layer of the new kind in place of `old`; `old` itself where it is of that kind already.

    Args:
        name: for messages.
        blank: a tensor of the device and type to use where the old layer has none.

    Raises:
        InputError: something would be lost.
    """
    _check_plain(name, old)
    new = spec.plain(channels_of(old), generator)
    if keep and type(old) in BATCH and type(new) is type(old) and not spec.model_fields_set & {"eps", "momentum"}:
        return old
    tensors = [*old.parameters(), *(buffer for buffer in old.buffers() if buffer.is_floating_point())]
    like = tensors[0] if tensors else blank
    new.to(device=like.device, dtype=like.dtype)
    if keep:
        _keep_weights(name, old, new)
        _keep_statistics(name, old, new, spec)
    weight, bias = old._parameters.get("weight"), old._parameters.get("bias")
    for key, parameter in new.named_parameters():
        source = bias if key == "bias" else weight
        parameter.requires_grad_(source is None or source.requires_grad)
    return new.train(old.training)


def _check_plain(name: str, old: nn.Module) -> None:
    """Refuse layers that do more than normalise, or to which something is attached."""
    what = f"{name}, a {type(old).__name__}"
    if isinstance(old, nn.LazyBatchNorm2d | nn.LazyInstanceNorm2d):
        raise InputError("norms to convert must know their channels", got=what, do="Run the model on a batch first.")
    if isinstance(old, ACTIVATING):
        do = "Convert the model as it was before, or leave this layer out."
        raise InputError("norms to convert must have no activation inside, which would be lost", got=what, do=do)
    attached = [old._forward_hooks, old._forward_pre_hooks, old._backward_hooks, old._backward_pre_hooks]
    if any(attached) or hasattr(old, "parametrizations"):
        do = "Remove them, convert, and attach them to the new layer."
        raise InputError("norms to convert must have no hooks or parametrisations", got=what, do=do)
    if not _only_normalises(old):
        do = "Convert the others by name, or put a plain norm and a module for the rest in its place."
        raise InputError("norms to convert must do nothing else, such as an activation inside", got=what, do=do)


def _only_normalises(old: nn.Module) -> bool:
    if isinstance(old, OURS) or _is_layer_norm_2d(old):
        return True
    if type(old).__name__ == "BatchNormAct2d":  # timm's: batch norm, dropout, activation
        return all(isinstance(child, nn.Identity) for child in old.children())
    kinds = (*BATCH, nn.GroupNorm, nn.InstanceNorm2d)
    # A subclass that adds only options, or nothing but a name, runs the forward pass of its base.
    return any(isinstance(old, kind) and type(old).forward is kind.forward for kind in kinds)


def _is_layer_norm_2d(module: nn.Module) -> bool:
    """torchvision's or timm's, by name: importing either takes long."""
    return isinstance(module, nn.LayerNorm) and type(module).__name__ == "LayerNorm2d"


def _keep_weights(name: str, old: nn.Module, new: nn.Module) -> None:
    if not (_only_normalises(new) or isinstance(new, ACTIVATING)):
        do = "Say keep=False, which puts fresh layers there."
        raise InputError("weights can only be kept in a norm of nasimb", got=f"a {type(new).__name__}", do=do)
    weight_C, bias_C = _weight_and_bias(old)
    layer = cast(Any, new)
    if isinstance(new, NormalisedBatchNorm2d):
        length, bias_length = (float(torch.linalg.vector_norm(vector_C)) for vector_C in (weight_C, bias_C))
        if new.normalises_bias and abs(length - bias_length) > SAME_LENGTH * length:
            raise InputError(
                "one scalar for weight and bias needs vectors of one length",
                got=f"lengths {length:.6g} and {bias_length:.6g} at {name}",
                do="Use bias: free, or keep=False where nothing has been learned yet.",
            )
        if length == 0:  # zero has no direction: the scalar is zero, and the vectors stay as they start
            new.scale.zero_()
            if not new.normalises_bias:
                new.bias.copy_(bias_C)
            return
        # Vectors as long as the weights were: their gradients are as large as those of a batch norm.
        new.scale.fill_(length + FLOOR)
    layer.weight.copy_(weight_C)
    layer.bias.copy_(bias_C)


def _weight_and_bias(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The effective vectors, float64 on the CPU; 1 and 0 where there are none."""
    channels = channels_of(norm)
    weight, bias = norm._parameters.get("weight"), norm._parameters.get("bias")
    weight_C = torch.ones(channels, dtype=torch.float64) if weight is None else weight.detach().cpu().double()
    bias_C = torch.zeros(channels, dtype=torch.float64) if bias is None else bias.detach().cpu().double()
    if isinstance(norm, NormalisedBatchNorm2d):
        scale = norm.scale.detach().cpu().double()
        return effective(weight_C, bias_C, scale, normalises_bias=norm.normalises_bias)
    return weight_C, bias_C


def _keep_statistics(name: str, old: nn.Module, new: nn.Module, spec: NormSpec) -> None:
    if not isinstance(old, BATCH):
        return
    buffers = dict(new.named_buffers())
    for key, buffer in old.named_buffers():
        if key in buffers:
            setattr(new, key, buffer.clone())  # whose type may differ from the weights'
    if not isinstance(new, BATCH):
        return
    if "eps" not in spec.model_fields_set:
        new.eps = old.eps
    if "momentum" not in spec.model_fields_set:
        new.momentum = old.momentum
    if old.running_mean is None:
        new.track_running_stats = False
        new.running_mean = new.running_var = new.num_batches_tracked = None
    if isinstance(new, NormalisedBatchNorm2d) and (new.momentum is None or not new.track_running_stats):
        do = "Give the layer a momentum and running statistics before, or choose another norm."
        got = f"{name}, momentum {old.momentum} and track_running_stats {old.track_running_stats}"
        raise InputError("nbn needs running statistics that follow the batches by a momentum", got=got, do=do)
