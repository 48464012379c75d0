"""How many floating-point operations a second a device can do: what model FLOPs utilisation is a share of."""

from __future__ import annotations

import time
from functools import cache

import torch

from framework.planner.hardware import named_by_torch


@cache
def peak_flops(device: torch.device) -> float:
    """FLOP/s of a device: the datasheet's bf16 rate for a known GPU (framework.planner.hardware), else the best of a few large fp32 matrix products."""
    if device.type == "cuda":
        known = named_by_torch(torch.cuda.get_device_name(device))
        if known is not None:
            return known.half_flops
    return _measured(device)


def _measured(device: torch.device, size: int = 1024, repeats: int = 5) -> float:
    generator = torch.Generator().manual_seed(0)  # the training run's own random numbers are not touched
    matrix = torch.rand(size, size, generator=generator).to(device)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        product = matrix @ matrix
        _ = product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
