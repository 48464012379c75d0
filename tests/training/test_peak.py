"""The peak that utilisation is a share of: one table for runs and plans, a measurement where it has no row."""

from __future__ import annotations

import pytest
import torch

from framework.planner.hardware import device
from framework.training import peak


def test_a_known_device_s_is_the_table_s(monkeypatch: pytest.MonkeyPatch) -> None:
    peak.peak_flops.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    assert peak.peak_flops(torch.device("cuda")) == device("h100").half_flops
    peak.peak_flops.cache_clear()


def test_a_cpu_is_measured() -> None:
    assert 1e8 < peak.peak_flops(torch.device("cpu")) < 1e15
