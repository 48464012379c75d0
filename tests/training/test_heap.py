"""What a step frees stays with the process, unless the user decides otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PAGES = 64 * 2**20 // 4096
FAULTS = f"""
import resource
from framework.training.heap import keep_freed

def take_and_free():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray({PAGES} * 4096)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed()
take_and_free()
print(kept, take_and_free())
"""


@pytest.mark.parametrize(
    "chosen", [{}, {"FRAMEWORK_KEEP_MEMORY": "0"}, {"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}]
)
def test_memory_is_taken_from_the_system_once(chosen: dict[str, str]) -> None:
    if sys.platform != "linux" or "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        pytest.skip("glibc's settings")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES", "FRAMEWORK_KEEP"))}
    done = subprocess.run([sys.executable, "-c", FAULTS], env={**clean, **chosen}, check=True, capture_output=True, text=True)
    kept, faults = done.stdout.split()
    assert kept == str(not chosen)
    assert int(faults) < PAGES // 10 if not chosen else int(faults) > PAGES // 2
