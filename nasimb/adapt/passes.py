"""Forward passes through a private copy of a model whose norms are watched, or told what to normalise with.

Shapes: B images, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nasimb.adapt.layers import Layer, adaptable
from nasimb.errors import InputError
from nasimb.nn.moments import Moments

Seen = Callable[[str, Tensor], Moments | None]
"""(layer, its maps_BCHW) -> what it is to normalise with; None: with what it normalises already."""


class Passes:
    """A copy of `model` in evaluation mode, of which each forward pass may change the statistics.

    The model itself is never touched: neither its mode nor its buffers, whatever it is used for meanwhile.

    Args:
        outputs: see `nasimb.adapt.layers.adaptable`.

    Raises:
        InputError: there is nothing to adapt, or the model is wrapped so that its layers cannot be reached.
    """

    def __init__(self, model: nn.Module, outputs: Mapping[str, Moments] | None = None) -> None:
        adaptable(model, outputs)  # says what is wrong before anything is copied
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.layers = {layer.name: layer for layer in adaptable(self.model, outputs)}
        tensors = [*self.model.parameters(), *self.model.buffers()]
        self.device = tensors[0].device
        self._seen: Seen | None = None
        self._moved: dict[str, Moments] = {}
        for layer in self.layers.values():
            if layer.running:
                layer.module.register_forward_pre_hook(self._before(layer))
            else:
                layer.module.register_forward_hook(self._after(layer))

    @torch.no_grad()
    def run(self, images: Tensor, seen: Seen | None = None) -> Tensor:
        """logits_BK, each norm asking `seen` what to normalise with as its inputs come.

        Raises:
            InputError: the outputs are no logits, one row an image.
        """
        self._seen = seen
        try:
            logits = self.model(images)
        finally:
            self._seen = None
        if not (isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == len(images)):
            got = f"{type(logits).__name__} {list(getattr(logits, 'shape', []))}"
            do = "Wrap the model so that its output is the logits alone."
            raise InputError("a model to adapt must give logits [B, K]", got=got, do=do)
        return logits

    def write(self, moments: Mapping[str, Moments]) -> None:
        """Let these layers normalise with these from now on; group and layer norms are moved to their source."""
        for name, value in moments.items():
            layer = self.layers[name]
            if layer.running:
                layer.write(value)
            else:
                self._moved[name] = value

    def write_source(self) -> None:
        """Back to what the model was trained with."""
        self._moved.clear()
        self.write({name: layer.source for name, layer in self.layers.items() if layer.running})

    def unhooked(self) -> nn.Module:
        """A copy of the model as it is now, that nobody watches."""
        hooks = [(layer.module._forward_pre_hooks, layer.module._forward_hooks) for layer in self.layers.values()]
        kept = [(dict(before), dict(after)) for before, after in hooks]
        for before, after in hooks:
            before.clear()
            after.clear()
        try:
            return copy.deepcopy(self.model)
        finally:
            for (before, after), (old_before, old_after) in zip(hooks, kept, strict=True):
                before.update(old_before)
                after.update(old_after)

    def _before(self, layer: Layer) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if self._seen is not None:
                moments = self._seen(layer.name, layer.maps(inputs[0]))
                if moments is not None:
                    layer.write(moments)

        return hook

    def _after(self, layer: Layer) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if self._seen is not None:
                moments = self._seen(layer.name, layer.maps(output))
                if moments is not None:
                    self._moved[layer.name] = moments
            moved = self._moved.get(layer.name)
            return None if moved is None else layer.moved(output, moved)

        return hook
