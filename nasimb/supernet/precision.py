"""Which number format is faster here, in training and in inference, by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nasimb.space import Subnet
from nasimb.supernet.base import Supernet
from nasimb.supernet.calibrate import calibrate
from nasimb.supernet.tree import SubnetTree

Precision = Literal["float32", "bfloat16"]

CLEARLY_FASTER = 1.2
"""Heuristic: bfloat16 must gain this much, so that noise of the clock does not decide (nor rounding for nothing)."""


def faster_precision(
    supernet: Supernet,
    batch_size: int,
    device: torch.device,
    *,
    clock: Callable[[], float] = time.perf_counter,
    repetitions: int = 3,
) -> Precision:
    """bfloat16 if forward and backward of a typical sandwich of subnets are clearly faster in it on `device`.

    Only a CUDA device or a CPU with bfloat16 arithmetic is measured; anywhere else float32 it is. The weights stay
    as they are, gradients are cleared.
    """
    if not _has_bfloat16(device):
        return "float32"
    space, rng = supernet.space, np.random.default_rng(0)
    subnets = [space.largest(), space.smallest(), space.sample(rng), space.sample(rng)]
    shape = (batch_size, supernet.in_channels, space.max_resolution, space.max_resolution)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images_BCHW = pixels.to(device)

    def work(bfloat16: bool) -> None:
        _forward_and_backward(supernet, subnets, images_BCHW, bfloat16=bfloat16)

    return _faster(work, device, clock, repetitions)


def faster_inference(
    supernet: Supernet,
    images_BCHW: Tensor,
    *,
    clock: Callable[[], float] = time.perf_counter,
    repetitions: int = 3,
) -> Precision:
    """bfloat16 if the largest subnet's folded steps, as they score candidates, are clearly faster in it.

    Args:
        images_BCHW: one batch as it will come, on the device to be measured. Where that has no bfloat16 arithmetic,
            nothing is measured and float32 it is.
    """
    device, largest = images_BCHW.device, supernet.space.largest()
    if not _has_bfloat16(device):
        return "float32"
    statistics = calibrate(supernet, largest, images_BCHW)
    trees = {
        dtype == torch.bfloat16: SubnetTree.alone(supernet, largest, statistics, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    return _faster(lambda bfloat16: trees[bfloat16].features(images_BCHW), device, clock, repetitions)


def _faster(
    work: Callable[[bool], object], device: torch.device, clock: Callable[[], float], repetitions: int
) -> Precision:
    """bfloat16 if work(True) takes clearly less time than work(False)."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    # Turn by turn, so that other work on the machine slows both; the first turn only warms up.
    for _ in range(repetitions + 1):
        for bfloat16, measured in seconds.items():
            start = clock()
            work(bfloat16)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            measured.append(clock() - start)
    float32_seconds, bfloat16_seconds = (min(measured[1:]) for measured in seconds.values())
    return "bfloat16" if float32_seconds > CLEARLY_FASTER * bfloat16_seconds else "float32"


def _forward_and_backward(supernet: Supernet, subnets: list[Subnet], images_BCHW: Tensor, *, bfloat16: bool) -> None:
    device = images_BCHW.device
    for subnet in subnets:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits_BK = supernet(images_BCHW, subnet)
        torch.autograd.backward(logits_BK.float().logsumexp(1).sum())
        supernet.zero_grad(set_to_none=True)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probe: Callable[[], bool] = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return device.type == "cpu" and bool(probe())
