"""Huge pages change where numbers are found, never the numbers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from framework.kernels import pages


def in_huge_pages(tensor: torch.Tensor) -> int:
    """Bytes of the mapping that holds a tensor which are in huge pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= tensor.data_ptr() < int(found[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no mapping holds the tensor")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux' pages")
def test_weights_move_into_huge_pages_and_stay_what_they_are() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(3000, 1000))
    before, address = weight.detach().clone(), weight.data_ptr()
    pages.gather([weight, torch.randn(3), torch.empty(5, device="meta")]).join()
    assert torch.equal(weight, before) and weight.data_ptr() == address
    if in_huge_pages(weight) == 0:
        pytest.skip("this system gives no huge pages")
    assert in_huge_pages(weight) >= weight.nbytes - pages.HUGE


def test_a_tensor_that_is_gone_harms_nothing() -> None:
    weights = [torch.randn(1000, 1000) for _ in range(4)]
    thread = pages.gather(weights)
    del weights
    thread.join()
