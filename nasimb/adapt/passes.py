"""Forward passes through a private copy of a model whose norms are watched, or told what to normalise with.

Shapes: B images, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

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
        if isinstance(model, torch.jit.ScriptModule):
            do = "Give the model before torch.jit.script or torch.jit.trace."
            raise InputError("the layers of a model to adapt must be reachable", got=type(model).__name__, do=do)
        adaptable(model, outputs)  # says what is wrong before anything is copied
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.layers = {layer.name: layer for layer in adaptable(self.model, outputs)}
        tensors = [*self.model.parameters(), *self.model.buffers()]
        self.device = tensors[0].device
        # As they are: moments are float32, whatever the model is.
        held = [layer.held().values() for layer in self.layers.values() if layer.running]
        self._trained = [(buffer, buffer.clone()) for buffers in held for buffer in buffers]
        self._moved: dict[str, Moments] = {}

    @torch.no_grad()
    def run(self, images: Tensor, seen: Seen | None = None) -> Tensor:
        """logits_BK, each norm asking `seen` what to normalise with as its inputs come.

        Raises:
            InputError: the model does not take the images, its outputs are no logits, one row an image, or none of
                its norms was used.
        """
        heard: set[str] = set()
        # Only while there is something to do: torch calls a module with hooks more slowly.
        handles = self._watch(seen, heard) if seen is not None or self._moved else []
        try:
            logits = self.model(images)
        except (torch.OutOfMemoryError, InputError):
            raise
        except (RuntimeError, ValueError, TypeError) as error:
            got = f"{images.dtype} {list(images.shape)}: {next(iter(str(error).splitlines()), type(error).__name__)}"
            raise InputError("a model must take the images", got=got, do="Give them as in training.") from error
        finally:
            for handle in handles:
                handle.remove()
        if not (isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == len(images)):
            got = f"{type(logits).__name__} {list(getattr(logits, 'shape', []))}"
            do = "Wrap the model so that its output is the logits alone."
            raise InputError("a model to adapt must give logits [B, K]", got=got, do=do)
        if seen is not None and not heard:
            do = "Give the model before torch.export or torch.compile."
            raise InputError("a model to adapt must call its norms", got=f"none of {', '.join(self.layers)}", do=do)
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
        for buffer, trained in self._trained:
            buffer.copy_(trained)

    def copied(self) -> nn.Module:
        """A copy of the model as it is now."""
        return copy.deepcopy(self.model)

    def _watch(self, seen: Seen | None, heard: set[str]) -> list[RemovableHandle]:
        """Hooks that ask `seen` and note which layers did; without it, those that move outputs."""
        return [
            layer.module.register_forward_pre_hook(_before(layer, seen, heard))
            if layer.running
            else layer.module.register_forward_hook(self._after(layer, seen, heard))
            for layer in self.layers.values()
            if seen is not None or not layer.running
        ]

    def _after(self, layer: Layer, seen: Seen | None, heard: set[str]) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if seen is not None:
                heard.add(layer.name)
                moments = seen(layer.name, layer.maps(output))
                if moments is not None:
                    self._moved[layer.name] = moments
            moved = self._moved.get(layer.name)
            return None if moved is None else layer.moved(output, moved)

        return hook


def _before(layer: Layer, seen: Seen | None, heard: set[str]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert seen is not None
        heard.add(layer.name)
        moments = seen(layer.name, layer.maps(inputs[0]))
        if moments is not None:
            layer.write(moments)

    return hook


def check_images(images_BCHW: Tensor) -> None:
    """Raises InputError where there is no image, or pixels are not finite."""
    if not isinstance(images_BCHW, Tensor) or images_BCHW.ndim < 2:
        got = f"{type(images_BCHW).__name__} {list(getattr(images_BCHW, 'shape', []))}"
        raise InputError("images must be a tensor [B, C, H, W]", got=got, do="Stack them, as for the model.")
    if len(images_BCHW) == 0:
        raise InputError("a batch must have an image", got="none", do="Leave empty batches out.")
    if images_BCHW.is_floating_point() and not bool(torch.isfinite(images_BCHW).all()):
        broken = (~torch.isfinite(images_BCHW).flatten(1).all(1)).nonzero()[0].item()
        do = "Leave such images out: one would spoil the statistics of all."
        raise InputError("pixels must be finite", got=f"NaN or infinite ones in image {broken} of the batch", do=do)
