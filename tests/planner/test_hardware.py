"""The table of devices, and how they are found by a user's word and by torch's."""

from __future__ import annotations

import pytest

from framework.errors import ConfigError
from framework.planner.hardware import DEVICES, device, named_by_torch


@pytest.mark.parametrize(
    ("word", "name"), [("h100", "h100"), ("RTX 4090", "rtx-4090"), ("A100_80", "a100-80"), ("b200", "b200"), ("MI300X", "mi300x")]
)
def test_by_a_user_s_word(word: str, name: str) -> None:
    assert device(word).name == name


def test_an_unknown_one_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"--hardware a100 is not known; did you mean a100-.*Known: b200, "):
        device("a100")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA L4", "l4"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("AMD Instinct MI300X", "mi300x"),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_by_torch_s_name(name: str, expected: str | None) -> None:
    found = named_by_torch(name)
    assert (None if found is None else found.name) == expected


def test_the_figures_are_of_their_units() -> None:
    for entry in DEVICES:
        assert 1e13 < entry.half_flops < 1e16 and entry.single_flops < entry.half_flops
        assert 1e10 < entry.memory_bytes < 1e12 and 1e11 < entry.bandwidth < 1e13 and entry.source
    assert len({entry.name for entry in DEVICES}) == len(DEVICES)
