"""How many floating-point operations a second a device can do: what model FLOPs utilisation is a share of."""

from __future__ import annotations

import time
from functools import cache

import torch

# dense bf16 tensor-core peaks, FLOP/s, from the vendors' datasheets
DATASHEET = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}


@cache
def peak_flops(device: torch.device) -> float:
    """FLOP/s of a device: the datasheet's bf16 rate for a known GPU, else the best of a few large fp32 matrix products."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, flops in DATASHEET.items():
            if known in name:
                return flops
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
