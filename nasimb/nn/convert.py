"""Swap the norms of any torch model in place and keep what it learned, to try a norm without nasimb's networks.

Shapes: C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, Literal

import torch
from torch import nn

from nasimb.errors import InputError, unknown_name
from nasimb.nn.convert_blocks import branch_ends
from nasimb.nn.convert_layer import channels_of, converted, is_norm
from nasimb.nn.norms import NORMS
from nasimb.nn.norms.base import NormSpec, PlacedSpec
from nasimb.nn.norms.nbn import NormalisedBatchNormSpec
from nasimb.spec import from_table

Where = Literal["last", "last-stage", "all"] | Sequence[str]
PLACES = ("last", "last-stage", "all")


def convert_norm(
    model: nn.Module, norm: str | Mapping[str, Any] | NormSpec, *, where: Where = "last", keep: bool = True
) -> list[str]:
    """Replace norms of a model by others, in place; the names of the replaced layers.

    >>> from torchvision.models import resnet50
    >>> convert_norm(resnet50(), "nbn", where="last-stage")
    ['layer4.0.bn3', 'layer4.0.downsample.1', 'layer4.1.bn3', 'layer4.2.bn3']

    Those four are the layers that the authors of NBN replace (arXiv 2501.03122 and their code); here each has its own
    scalar. Norms are BatchNorm2d, SyncBatchNorm, GroupNorm, InstanceNorm2d, LayerNorm2d, and what this function makes.
    Layers that normalise over the last axis, as LayerNorm does in transformers, are none.

    What is kept, of every layer: weight and bias, device and type of the numbers, mode (training or not), and what is
    frozen (scalars and thresholds that come with the new norm follow the weight). Weights that a layer lacks start at
    1 and 0. Moreover:

    - Between bn, nbn, ghost_bn and sync_bn: running statistics, eps and momentum (unless `norm` names others). In
      eval mode the outputs are the same, to rounding for nbn.
    - From or to other norms: the weights are but starting values and the outputs differ. Running statistics are
      lost there; where a batch norm is made they start at 0 and 1. (evonorm_b0 takes over the variance of one.)
    - EvoNorm and FRN contain a nonlinearity. Activations that follow in the model stay: take out those that double it.

    A model must be wrapped (compiled, DistributedDataParallel) and get its optimiser after conversion: an older
    optimiser trains the parameters of layers that are gone. A module that stands in several places stays shared.

    Args:
        model: any module that contains norms. It is unchanged where this function raises.
        norm: as in a configuration: `"nbn"` or `{"name": "nbn", "bias": "normalised"}`.
        where: `"last"`, the norms whose outputs are added up in residual blocks: the last of each branch and of each
            projecting shortcut (`nasimb.nn.convert_blocks.branch_ends`). `"last-stage"`, those at the end of them, in
            order of execution, that have as many channels as the very last. `"all"`; or a list of names.
        keep: False puts fresh layers there instead, of which only device, types, modes and what is frozen are kept:
            for a model that has learned nothing, and norms with options for how they start.

    Raises:
        InputError: the norm or a name is unknown, no layer is meant, torch.fx cannot trace the model (`"last"` and
            `"last-stage"`), or a layer cannot be converted without losing something.
    """
    spec = norm if isinstance(norm, NormSpec) else from_table(NORMS, norm, what="the norm")
    _check_options(spec, where, keep=keep)
    if is_norm(model):
        do = "Put it into a module (nn.Sequential), or build the norm that you want."
        raise InputError("the norms to convert must be inside the model", got=type(model).__name__, do=do)
    modules = dict(model.named_modules(remove_duplicate=False))
    names = _meant(model, modules, where)
    _check_alone(model, modules, names)
    generator = torch.Generator().manual_seed(0)  # the same start every time, and another for every layer
    blank = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.empty(0))
    swaps = {modules[name]: converted(name, modules[name], spec, generator, blank, keep=keep) for name in names}
    # Only now, when every layer has been made.
    for parent in list(model.modules()):
        for child_name, child in list(parent._modules.items()):
            if child in swaps:
                setattr(parent, child_name, swaps[child])
    return [name for name in names if swaps[modules[name]] is not modules[name]]


def _check_options(spec: NormSpec, where: Where, *, keep: bool) -> None:
    """Options that this function cannot obey are refused rather than left out."""
    given = spec.model_fields_set
    if isinstance(spec, PlacedSpec) and "where" in given and spec.where != where:
        do = "Leave it out of the norm."
        raise InputError("the place must be said once, as where=", got=f"where: {spec.where} of the norm", do=do)
    if not isinstance(spec, NormalisedBatchNormSpec):
        return
    if spec.scale != "layer":
        do = "Use scale: layer; equal outputs need lengths of their own, and state dicts one owner of each parameter."
        raise InputError("every converted layer must have its own scalar", got=f"scale: {spec.scale}", do=do)
    starts = [f"{key}: {getattr(spec, key)}" for key in ("start", "bias_start") if key in given]
    if keep and starts:
        do = "Leave it out, or say keep=False."
        raise InputError("a norm that keeps what was learned starts from that", got=", ".join(starts), do=do)


def _meant(model: nn.Module, modules: Mapping[str, nn.Module], where: Where) -> list[str]:
    """Names of the layers to convert, each layer once."""
    if not isinstance(where, str):
        return _named(modules, where)
    if where not in PLACES:
        raise unknown_name("where (or a list of names)", where, PLACES)
    norms = [name for name, module in model.named_modules() if is_norm(module)]
    if not norms:
        raise InputError(
            "a model must have norms over maps (BatchNorm2d, SyncBatchNorm, GroupNorm, InstanceNorm2d, LayerNorm2d)",
            got=f"{type(model).__name__} without any",
            do="Convert a model that has some; layers over vectors or the last axis stay as they are.",
        )
    if where == "all":
        return norms
    ends = branch_ends(model, is_norm)
    if not ends:
        raise InputError(
            "a model must add up outputs of norms in residual blocks",
            got=f"{type(model).__name__}, which has {len(norms)} norms elsewhere ({norms[-1]})",
            do='Use where="all" or a list of names.',
        )
    if where == "last":
        return ends
    width = channels_of(modules[ends[-1]])
    return list(takewhile(lambda name: channels_of(modules[name]) == width, reversed(ends)))[::-1]


def _named(modules: Mapping[str, nn.Module], names: Sequence[str]) -> list[str]:
    norms = {name for name, module in modules.items() if is_norm(module)}
    if not names:
        raise InputError("where must name at least one layer", got="an empty list", do='Name some, or say "all".')
    for name in names:
        if name not in modules:
            nearest = get_close_matches(name, norms, n=1)
            do = f"Did you mean {nearest[0]!r}?" if nearest else "See the names in model.named_modules()."
            raise InputError("every name must be that of a norm of the model", got=repr(name), do=do)
        if name not in norms:
            got = f"{name!r}, a {type(modules[name]).__name__}"
            do = "Name norms over maps only: BatchNorm2d, SyncBatchNorm, GroupNorm, InstanceNorm2d, LayerNorm2d."
            raise InputError("every name must be that of a norm of the model", got=got, do=do)
    return list({modules[name]: name for name in reversed(names)}.values())[::-1]


def _check_alone(model: nn.Module, modules: Mapping[str, nn.Module], names: Sequence[str]) -> None:
    """Parameters that other layers use too would come apart."""
    owners: dict[nn.Parameter, nn.Module] = {}
    meant = {modules[name] for name in names}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            first = owners.setdefault(parameter, module)
            if first is not module and meant & {first, module}:
                name = next(name for name in names if modules[name] in (first, module))
                do = "Give each layer its own parameters, or leave that layer out."
                raise InputError("a norm to convert must share no parameter with others", got=name, do=do)
