"""Which number format trains faster here, by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import torch

from nasimb.supernet.base import Supernet

CLEARLY_FASTER = 1.15
"""Heuristic: bfloat16 must gain this much, so that noise of the clock seldom decides."""


def faster_precision(
    supernet: Supernet,
    batch_size: int,
    device: torch.device,
    *,
    clock: Callable[[], float] = time.perf_counter,
    repetitions: int = 3,
) -> Literal["float32", "bfloat16"]:
    """bfloat16 if forward and backward of the largest subnet are clearly faster in it on `device`.

    Only a CUDA device or a CPU with bfloat16 arithmetic is measured; anywhere else float32 it is. Weights and
    gradients are left as they were (gradients: none).
    """
    if not _has_bfloat16(device):
        return "float32"
    seconds = {
        dtype: min(_step_seconds(supernet, batch_size, device, dtype, clock) for _ in range(repetitions + 1))
        for dtype in (torch.float32, torch.bfloat16)
    }
    return "bfloat16" if seconds[torch.float32] > CLEARLY_FASTER * seconds[torch.bfloat16] else "float32"


def _step_seconds(
    supernet: Supernet, batch_size: int, device: torch.device, dtype: torch.dtype, clock: Callable[[], float]
) -> float:
    subnet = supernet.space.largest()
    shape = (batch_size, supernet.in_channels, subnet.resolution, subnet.resolution)
    images_BCHW = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8).to(device)
    _wait_for(device)
    start = clock()
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits_BK = supernet(images_BCHW, subnet)
    torch.autograd.backward(logits_BK.float().logsumexp(1).sum())
    _wait_for(device)
    supernet.zero_grad(set_to_none=True)
    return clock() - start


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probe: Callable[[], bool] = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return device.type == "cpu" and bool(probe())


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
