"""Weights in huge pages: a decoding step reads all of them, and with small pages spends a third of its time on finding where each is."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from threading import Thread

from torch import Tensor

from framework.kernels.calls import PLAIN

HUGE = 2 * 2**20  # bytes of a huge page on x86-64, and on ARM with small pages of 4 KiB
SMALL = 2**17  # bytes of a tensor that is not worth it
MADV_COLLAPSE = 25  # Linux 6.1: gather the small pages of a range into huge ones, now


def gather(tensors: Iterable[Tensor]) -> Thread:
    """Let the system hold these tensors' memory in huge pages, in the background: what it held is copied once, addresses stay.

    Nothing happens where the system cannot, nor to what is on another device, in a file or in shared memory.
    """
    pages: set[int] = set()
    for tensor in tensors:
        if tensor.is_cpu and type(tensor) in PLAIN and tensor.nbytes >= SMALL:
            start = tensor.data_ptr()
            pages.update(range(start // HUGE, (start + tensor.nbytes - 1) // HUGE + 1))
    thread = Thread(target=_collapse, args=[sorted(pages) if sys.platform == "linux" else []], daemon=True)
    thread.start()
    return thread


def _collapse(pages: list[int]) -> None:
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for page in pages:
        madvise(page * HUGE, HUGE, MADV_COLLAPSE)
