"""What a step frees stays with the process for the next step, rather than going back to the system, which clears every page anew.

A large network's activations and gradients are hundreds of megabytes. glibc returns most of them at the end of each step, and taking
them back costs a page fault for every 4 KiB. The allocator stays glibc's; two of its settings change, for this process alone.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER = -1  # instead of the bytes that are free at the heap's end before they are returned
OWN_SETTINGS = ("MALLOC_", "GLIBC_TUNABLES")


def keep_freed() -> bool:
    """Keep what this process frees from now on; whether it does.

    Not where the allocator has no such settings (another system, another C library), nor where the user decides: with
    FRAMEWORK_KEEP_MEMORY=0, or with glibc's own variables. A preloaded allocator (jemalloc, tcmalloc) has ways of its own.
    """
    chosen = os.environ.get("FRAMEWORK_KEEP_MEMORY") == "0" or any(name.startswith(OWN_SETTINGS) for name in os.environ)
    if sys.platform != "linux" or chosen:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(M_TRIM_THRESHOLD, NEVER)) and bool(mallopt(M_MMAP_MAX, 0))
