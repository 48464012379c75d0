"""Devices that are known: what they compute and move a second, and what they hold. Imports no torch.

A name flows in, figures flow out. The one table of peaks: a run's model FLOPs utilisation is a share of them too.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from framework.errors import ConfigError


@dataclass(frozen=True)
class Device:
    """One kind of device, by its vendor's datasheet.

    Attributes:
        name: as the command line has it.
        torch_name: words that torch's name of the device has, all of them.
        half_flops: dense bf16 matrix products, FLOP/s (fp16 where there is no bf16); sparsity not counted. 0: to be measured.
        single_flops: fp32 outside of tensor cores, FLOP/s: what fp32 products run at unless TF32 is allowed.
        memory_bytes: decimal gigabytes, as sold; drivers report some 5% more, which the runtime takes for itself.
        bandwidth: of that memory, bytes a second.
        source: where the figures are from.
    """

    name: str
    torch_name: tuple[str, ...]
    half_flops: float
    single_flops: float
    memory_bytes: float
    bandwidth: float
    source: str


DEVICES = (
    Device("b200", ("B200",), 2250e12, 75e12, 180e9, 8.0e12, "NVIDIA HGX B200 datasheet, an eighth of the board"),
    Device("h200", ("H200",), 989e12, 67e12, 141e9, 4.8e12, "NVIDIA H200 datasheet, SXM"),
    Device("h100-pcie", ("H100", "PCIe"), 756e12, 51e12, 80e9, 2.0e12, "NVIDIA H100 datasheet, PCIe"),
    Device("h100", ("H100",), 989e12, 67e12, 80e9, 3.35e12, "NVIDIA H100 datasheet, SXM"),
    Device("a100-80", ("A100", "80GB"), 312e12, 19.5e12, 80e9, 2.039e12, "NVIDIA A100 datasheet, SXM"),
    Device("a100-40", ("A100",), 312e12, 19.5e12, 40e9, 1.555e12, "NVIDIA A100 datasheet"),
    Device("l40s", ("L40S",), 362e12, 91.6e12, 48e9, 0.864e12, "NVIDIA L40S datasheet"),
    Device("l40", ("L40",), 181e12, 90.5e12, 48e9, 0.864e12, "NVIDIA L40 datasheet"),
    Device("l4", ("L4",), 121e12, 30.3e12, 24e9, 0.300e12, "NVIDIA L4 datasheet"),
    Device("rtx-4090", ("RTX 4090",), 165e12, 82.6e12, 24e9, 1.008e12, "NVIDIA Ada architecture whitepaper, fp32 accumulation"),
    Device("rtx-3090", ("RTX 3090",), 71e12, 35.6e12, 24e9, 0.936e12, "NVIDIA Ampere GA102 whitepaper, fp32 accumulation"),
    Device("v100", ("V100",), 125e12, 15.7e12, 32e9, 0.900e12, "NVIDIA V100 datasheet, SXM2; fp16"),
    Device("t4", ("T4",), 65e12, 8.1e12, 16e9, 0.320e12, "NVIDIA T4 datasheet; fp16"),
    Device("mi300x", ("MI300X",), 1307e12, 163.4e12, 192e9, 5.3e12, "AMD Instinct MI300X datasheet"),
)


def device(name: str) -> Device:
    """The device of a name such as `h100` or `RTX 4090`. Raises ConfigError with the nearest one."""
    folded = name.lower().replace(" ", "-").replace("_", "-")
    known = {entry.name: entry for entry in DEVICES}
    if folded in known:
        return known[folded]
    near = [entry for entry in known if entry.startswith(folded)] or difflib.get_close_matches(folded, known, n=1, cutoff=0.4)
    raise ConfigError(f"--hardware {name} is not known{f'; did you mean {near[0]}?' if near else '.'} Known: {', '.join(known)}, cpu.")


def named_by_torch(name: str) -> Device | None:
    """The device that torch calls `NVIDIA A100-SXM4-80GB` or the like; None for one that is not in the table."""
    return next((entry for entry in DEVICES if all(word in name for word in entry.torch_name)), None)


def machine(memory_bytes: float) -> Device:
    """The CPU at hand, whose rates only a probe can tell."""
    return Device("cpu", (), 0.0, 0.0, memory_bytes, 0.0, "this machine")
