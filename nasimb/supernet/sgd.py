"""Nesterov's SGD, computed by torch.optim's function for it.

Not by its class: the first use of any optimiser of torch.optim imports the compiler, which takes two seconds of every
process that trains, and nothing here is compiled.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.sgd import sgd


@torch.no_grad()
def descend(
    parameters: Mapping[str, torch.nn.Parameter], momenta: dict[str, Tensor], *, learning_rate: float,
    momentum: float, weight_decay: float,
) -> None:  # fmt: skip
    """One step of every parameter that has a gradient; gradients are gone afterwards.

    Args:
        parameters: moved in place. Vectors and scalars (norm parameters, biases) are not decayed.
        momenta: of earlier steps, by name; updated.
        momentum: of Nesterov; 0 for plain SGD.
    """
    for decayed in (True, False):
        moved = {
            name: parameter
            for name, parameter in parameters.items()
            if parameter.grad is not None and (parameter.ndim > 1) == decayed
        }
        tensors: list[Tensor] = list(moved.values())
        gradients = [parameter.grad for parameter in moved.values() if parameter.grad is not None]
        buffers = [momenta.get(name) for name in moved]
        sgd(
            tensors, gradients, buffers, foreach=True, weight_decay=weight_decay if decayed else 0.0,
            momentum=momentum, lr=learning_rate, dampening=0.0, nesterov=momentum > 0, maximize=False,
        )  # fmt: skip
        momenta.update((name, buffer) for name, buffer in zip(moved, buffers, strict=True) if buffer is not None)
    for parameter in parameters.values():
        parameter.grad = None
