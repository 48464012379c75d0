"""What a run ran on: versions of what computes, and the machine's kind; no names of machines or people."""

from __future__ import annotations

import platform

import lightning
import torch


def environment(device: torch.device, world_size: int) -> dict[str, str | int]:
    """Versions, platform and device, as plain values for the lineage of a model."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": name,
        "processes": world_size,
        "threads": torch.get_num_threads(),
    }
