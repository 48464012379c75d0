"""Huge pages change where numbers are found, never the numbers."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from framework.kernels import pages


def in_huge_pages(address: int) -> int:
    """Bytes of the mapping at an address which are in huge pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no mapping is there")


def system_gives(size: int) -> int:
    """Bytes in huge pages of a mapping of this size, which holds nothing else, when the system is asked for them by hand."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[::4096] = bytes(len(memory[::4096]))
        view = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(view)
        for start in range(-(-address // pages.HUGE) * pages.HUGE, address + size - pages.HUGE + 1, pages.HUGE):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(pages.HUGE), 25)
        given = in_huge_pages(address)
        del view
    return given


def test_every_page_of_a_weight_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(pages, "_collapse", asked.extend)
    monkeypatch.setattr(sys, "platform", "linux")
    weight = torch.randn(3000, 1000)
    pages.gather([weight, torch.randn(3), torch.empty(1000, 1000, device="meta")]).join()
    last = weight.data_ptr() + weight.nbytes - 1
    assert asked == list(range(weight.data_ptr() // pages.HUGE, last // pages.HUGE + 1))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux' pages")
def test_weights_move_into_huge_pages_and_stay_what_they_are() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(3000, 1000))
    before, address = weight.detach().clone(), weight.data_ptr()
    pages.gather([weight]).join()
    assert torch.equal(weight, before) and weight.data_ptr() == address
    moved, least = in_huge_pages(address), weight.nbytes - pages.HUGE
    if moved < least and system_gives(weight.nbytes + pages.HUGE) < least:
        pytest.skip("this system gives no huge pages, or has none left")
    assert moved >= least


def test_a_tensor_that_is_gone_harms_nothing() -> None:
    weights = [torch.randn(1000, 1000) for _ in range(4)]
    thread = pages.gather(weights)
    del weights
    thread.join()
