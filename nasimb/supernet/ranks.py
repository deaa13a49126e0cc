"""Processes that train one super-network together, as a value: which of them this is, and how they add up and agree.

They were started by torchrun, hold the same weights, and run the same lines. Every method of `Ranks` is a meeting: all
ranks must come to the same ones in the same order, or those who came wait. `ONE_PROCESS` meets nobody, at no cost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nasimb.errors import Elsewhere, NasimbError, WorkError

Json = TypeVar("Json")
"""Anything that JSON can hold."""


class LostRank(WorkError):
    """Another process of this training is gone, or cannot be reached."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """One of `size` processes that train together.

    Attributes:
        rank: 0 to size - 1. The first, 0, decides, writes and speaks.
        size: how many there are.
        local: number of this process on its machine, hence of its GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one that decides, writes and speaks."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum of the ranks' tensors (on any device, of one shape), in place; the same bits on every rank."""
        if self.size > 1:
            self.meet(lambda: dist.all_reduce(tensor))
        return tensor

    def total(self, number: float) -> float:
        """The sum of the ranks' numbers."""
        return float(self.sum_(_number(number)))

    def highest(self, number: float) -> float:
        """The highest of the ranks' numbers."""
        found = _number(number)
        if self.size > 1:
            self.meet(lambda: dist.all_reduce(found, dist.ReduceOp.MAX))
        return float(found)

    def number_from_first(self, number: float) -> float:
        """The number of the first rank; quicker than `from_first`, for every step."""
        return float(self._broadcast(_number(number)))

    def from_first(self, value: Json, source: int = 0) -> Json:
        """The first rank's value (or that of rank `source`), whatever the others give; anything that JSON can hold."""
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.rank == source else b""
        length = int(self._broadcast(_number(len(text)), source))
        told = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(length, dtype=torch.uint8)
        told = self._broadcast(told, source)
        found: Json = json.loads(bytes(told.tolist()))
        return value if self.rank == source else found

    def tensors_from_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The first rank's tensors, on the CPU, whatever the others give."""
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()} if self.first else {}
        shapes = {name: (str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for name, tensor in held.items()}
        found = {}
        for name, (dtype, shape) in self.from_first(shapes).items():
            tensor = held[name] if self.first else torch.empty(shape, dtype=getattr(torch, dtype))
            found[name] = self._broadcast(tensor)
        return found

    @contextmanager
    def alike(self) -> Iterator[None]:
        """What fails inside on one rank fails on all: a meeting at the end, and none may be inside.

        Raises:
            Elsewhere: on a rank that is not the first to fail; that one raises its own error, and so speaks alone.
        """
        if self.size == 1:
            yield
            return
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        failed = -self.highest(float("-inf") if failure is None else -self.rank)
        if failed == float("inf"):
            return
        mine = failure if failure is not None and failed == self.rank else None
        text, code = self.from_first((str(mine), getattr(mine, "exit_code", 1)), source=int(failed))
        raise mine or Elsewhere(text, exit_code=code)

    def said_once(self, error: NasimbError) -> NasimbError:
        """The error to raise where all ranks find the same: the first speaks, the others leave in silence. No meeting.

        >>> Ranks(1, 2).said_once(WorkError("the loss must stay finite", got="nan", do="Stop.")).exit_code
        1
        """
        return error if self.first else Elsewhere(str(error), exit_code=error.exit_code)

    def _broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        if self.size > 1:
            self.meet(lambda: dist.broadcast(tensor, source))
        return tensor

    def meet(self, meeting: Callable[[], object]) -> None:
        """Call something of torch in which all ranks meet.

        Raises:
            LostRank: it failed; on the first rank, Elsewhere on the others.
        """
        try:
            meeting()
        except RuntimeError as error:
            lost = LostRank(
                "every process of a training must live and be reached until its end",
                got=f"one that is gone ({shorten(str(error), 160)})",
                do="Give the same command again to go on; torchrun --max-restarts 3 does so by itself.",
            )
            raise self.said_once(lost) from None


ONE_PROCESS = Ranks()
"""The only process there is."""


def micro_batches(num_images: int, accumulation: int, ranks: Ranks, *, together: bool) -> list[range]:
    """The images of a batch that a rank computes, one range for each of its `accumulation` forward passes.

    Those of all ranks are the batch, each image once, sizes one apart at most.

    Args:
        together: what the ranks compute at the same time is one micro-batch (its statistics are synchronised), cut as
            one process cuts a batch into `accumulation`. Otherwise every range has statistics of its own, and they are
            cut as one process cuts a batch into `accumulation` x ranks.
    """
    whole = range(num_images)
    if together:
        return [_cut(part, ranks.size)[ranks.rank] for part in _cut(whole, accumulation)]
    return _cut(whole, accumulation * ranks.size)[ranks.rank * accumulation : (ranks.rank + 1) * accumulation]


def _cut(whole: range, parts: int) -> list[range]:
    """Neighbouring parts whose sizes differ by one at most, the larger ones first (as `torch.tensor_split`)."""
    size, larger = divmod(len(whole), parts)
    ends = [size * (part + 1) + min(part + 1, larger) for part in range(parts)]
    return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _number(number: float) -> Tensor:
    """On the CPU, where agreeing needs no wait for a GPU; float64 holds every number exactly."""
    return torch.tensor(float(number), dtype=torch.float64)
