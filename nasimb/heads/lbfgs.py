"""Limited-memory BFGS that can be watched, saved and continued between any two iterations.

The direction is the two-loop recursion of Nocedal and Wright (2006, algorithm 7.4) around the diagonal that the
function gives at every point; the step is found by bisection under the weak Wolfe conditions (Lewis and Overton 2013),
the first guess after a failure by quadratic interpolation. It works in the precision and on the device of its start,
and copies nothing to the host. The function is a loss: its minimum is not below 0.

Shapes: V variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


class At(NamedTuple):
    """What a function is at a point.

    Attributes:
        curvature_V: a positive guess at the diagonal of the Hessian, up to a factor.
    """

    value: float
    gradient_V: Tensor
    curvature_V: Tensor


Function = Callable[[Tensor], At]

DECREASE, SLOPE = 1e-4, 0.9
"""Of the weak Wolfe conditions: the share of the promised decrease, and of the slope that may be left."""
MOST_TRIALS = 30
ROUNDING = 4.0
"""Values that differ by less, in units of the precision, are equal: sums of rounded terms are no better."""


@dataclass(frozen=True, eq=False)
class State:
    """Everything the next iteration depends on.

    Attributes:
        steps, changes: of point and gradient, in the iterations remembered, the oldest first.
        iteration: finished ones.
        done: no further iteration will be made.
    """

    point_V: Tensor
    at: At
    steps: tuple[Tensor, ...] = ()
    changes: tuple[Tensor, ...] = ()
    iteration: int = 0
    done: bool = False

    @classmethod
    def start(cls, function: Function, point_V: Tensor) -> State:
        """Without memory."""
        return cls(point_V, function(point_V))

    def to(self, dtype: torch.dtype, function: Function) -> State:
        """The same point and memory in another precision, evaluated anew."""
        point_V = self.point_V.to(dtype)
        steps, changes = (tuple(vector_V.to(dtype) for vector_V in kept) for kept in (self.steps, self.changes))
        return State(point_V, function(point_V), steps, changes, self.iteration)

    def tensors(self) -> dict[str, Tensor]:
        """Every number, for a safetensors file; `from_tensors` undoes it."""
        found = {"point": self.point_V, "gradient": self.at.gradient_V, "curvature": self.at.curvature_V}
        found["scalars"] = torch.tensor([self.at.value, self.iteration, self.done], dtype=torch.float64)
        for name, kept in (("step", self.steps), ("change", self.changes)):
            found.update({f"{name}.{index}": vector_V for index, vector_V in enumerate(kept)})
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], device: torch.device) -> State:
        """Undo `tensors`. Raises KeyError where one is missing."""
        value, iteration, done = tensors["scalars"].tolist()
        # Copied to where allocations begin: sums over memory that begins elsewhere are rounded otherwise.
        here = {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}
        remembered = sum(name.startswith("step.") for name in here)
        steps, changes = (tuple(here[f"{name}.{index}"] for index in range(remembered)) for name in ("step", "change"))
        point_V, gradient_V, curvature_V = (here[name] for name in ("point", "gradient", "curvature"))
        return cls(point_V, At(value, gradient_V, curvature_V), steps, changes, int(iteration), bool(done))


def descend(
    function: Function, state: State, *, pairs: int, max_iterations: int, tolerance: float, smallest_gradient: float
) -> Iterator[State]:
    """The states after every iteration from `state` on; the last one is `done`.

    It ends where half the slope of the next direction, g^T H^-1 g / 2 with the H remembered (an estimate of how far
    the value is above the minimum), is at most the share `tolerance` of the value; where no entry of the gradient,
    over the root of the curvature, exceeds `smallest_gradient`; where no step decreases the value; or after
    `max_iterations` of this state.

    Args:
        pairs: iterations remembered; each takes the memory of two points.
    """
    while not state.done:
        direction_V = _direction(state)
        gradient_V = state.at.gradient_V
        slope = float(direction_V @ gradient_V)
        if slope >= 0.0:  # rounding has spoilt the memory
            state = replace(state, steps=(), changes=())
            direction_V = _direction(state)
            slope = float(direction_V @ gradient_V)
        close = -0.5 * slope <= tolerance * abs(state.at.value)
        close = close or float((gradient_V.abs() / state.at.curvature_V.sqrt()).max()) <= smallest_gradient
        if close or state.iteration >= max_iterations:
            state = replace(state, done=True)
        else:
            state = _after(state, _search(function, state, direction_V, slope), pairs)
        yield state


def _direction(state: State) -> Tensor:
    direction_V = -state.at.gradient_V
    if not state.steps:
        return direction_V / state.at.curvature_V
    products = [float(step_V @ change_V) for step_V, change_V in zip(state.steps, state.changes, strict=True)]
    shares = []
    for step_V, change_V, product in zip(reversed(state.steps), reversed(state.changes), reversed(products)):  # noqa: B905
        shares.append(float(step_V @ direction_V) / product)
        direction_V = direction_V.sub_(change_V, alpha=shares[-1])
    direction_V /= state.at.curvature_V
    # The last step tells how wrong the guess is on the whole.
    direction_V *= products[-1] / float(state.changes[-1] @ (state.changes[-1] / state.at.curvature_V))
    for step_V, change_V, product in zip(state.steps, state.changes, products, strict=True):
        direction_V.add_(step_V, alpha=shares.pop() - float(change_V @ direction_V) / product)
    return direction_V


def _search(function: Function, state: State, direction_V: Tensor, slope: float) -> tuple[Tensor, At] | None:
    """Where the weak Wolfe conditions hold, or at least the first of them; None if no step decreases the value."""
    slack = ROUNDING * torch.finfo(direction_V.dtype).eps * abs(state.at.value)
    # Far from the minimum the quadratic model promises more than all of a loss that cannot fall below 0; a first step
    # of that length lands where the way back takes five times the iterations.
    low, high, length = 0.0, float("inf"), min(1.0, abs(state.at.value) / -slope)
    found = None
    for _ in range(MOST_TRIALS):
        point_V = torch.add(state.point_V, direction_V, alpha=length)
        at = function(point_V)
        if not at.value <= state.at.value + DECREASE * length * slope + slack:
            high = length
            excess = at.value - state.at.value - slope * length
            guess = -0.5 * slope * length**2 / excess if 0.0 < excess < float("inf") else 0.0
            length = min(max(guess, low + 0.1 * (high - low)), low + 0.5 * (high - low))
            continue
        low, found = length, (point_V, at)
        if float(at.gradient_V @ direction_V) >= SLOPE * slope:
            break
        length = 2.0 * low if high == float("inf") else 0.5 * (low + high)
    return found


def _after(state: State, found: tuple[Tensor, At] | None, pairs: int) -> State:
    if found is None:
        return replace(state, done=True)
    point_V, at = found
    step_V, change_V = point_V - state.point_V, at.gradient_V - state.at.gradient_V
    steps, changes = state.steps, state.changes
    if float(step_V @ change_V) > torch.finfo(step_V.dtype).eps * float(change_V @ change_V):
        steps, changes = (*steps, step_V)[-pairs:], (*changes, change_V)[-pairs:]
    return State(point_V, at, steps, changes, state.iteration + 1)
