"""The kernels' shared library: compiled at first use by the system's compiler, kept in the cache directory, loaded with ctypes.

C++ sources flow in, a loaded library flows out, or None where it cannot be had: torch does the work then. Must not know tensors.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from framework.files import cache_dir

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
# No -ffast-math: a sum's order is part of a kernel's promise. OpenMP is torch's own: its wheel brings libgomp under the name this library asks for.
# Aligned, as a product of 32 rows takes an eighth longer when its inner loop happens to lie badly.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-falign-functions=64", "-falign-loops=32", "-fopenmp", "-fPIC")
COMPILE_SECONDS = 120.0  # two are usual; a compiler that hangs must not hang generation

POINTER, INTEGER, THREADS, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
LINEAR = [POINTER] * 4 + [INTEGER] * 3 + [THREADS]
QUANTIZED = [POINTER] * 5 + [INTEGER] * 3 + [THREADS]
PRODUCT = [POINTER, THREADS]
ATTEND = [POINTER] * 7 + [INTEGER] * 8 + [THREADS]
ANSWERING = {"product_float32", "causal_float32", "next_token_float32"}  # 0, or 1 for what went wrong
SIGNATURES = {
    "linear_float32": LINEAR,
    "linear_bfloat16": LINEAR,
    "product_float32": PRODUCT,
    "causal_float32": PRODUCT,
    "linear_int8": QUANTIZED,
    "linear_int4": QUANTIZED,
    "attend_float32": ATTEND,
    "attend_bfloat16": ATTEND,
    "best_float32": [POINTER] * 2 + [INTEGER] * 3 + [THREADS],
    "draw_float32": [POINTER] * 5 + [INTEGER] * 2 + [THREADS],
    "next_token_float32": [POINTER] * 3 + [INTEGER] * 3 + [THREADS],
    "rms_norm": [POINTER] * 3 + [INTEGER] * 2 + [FLOAT],
    "layer_norm": [POINTER] * 4 + [INTEGER] * 2 + [FLOAT],
    "activate": [POINTER] * 2 + [INTEGER, THREADS, THREADS],
    "blocks": [POINTER] * 5 + [FLOAT, THREADS],
    "rotate": [POINTER] * 3 + [INTEGER] * 4,
}


@cache
def load() -> ctypes.CDLL | None:
    """The library, compiled if need be; None without a compiler or with FRAMEWORK_KERNELS=0, which is logged once."""
    if os.environ.get("FRAMEWORK_KERNELS") == "0":
        log.info("FRAMEWORK_KERNELS=0: torch computes what the kernels would")
        return None
    try:
        return _declare(ctypes.CDLL(str(build(cache_dir() / "kernels"))))
    except (OSError, subprocess.SubprocessError) as error:
        reason = str(getattr(error, "stderr", None) or error).strip().splitlines()
        log.warning("no kernels for this machine, so torch computes instead, slower: %s", reason[0] if reason else type(error).__name__)
        return None


def build(directory: Path) -> Path:
    """The library's file in `directory`, compiled unless a sound one is there; safe beside other processes that do the same.

    Raises:
        OSError: no compiler, or a directory that cannot be written.
        subprocess.SubprocessError: the compiler failed.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if sys.platform != "linux" or compiler is None:
        raise OSError("they need Linux and g++")
    path = directory / f"kernels-{_key(compiler)}.so"
    if not _is_sound(path):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch, ThreadPoolExecutor() as pool:
            sources = sorted(SOURCES.glob("*.cpp"))
            objects = [f"{scratch}/{source.stem}.o" for source in sources]
            list(pool.map(lambda source, target: _run(compiler, *FLAGS, "-c", str(source), "-o", target), sources, objects))
            linked = Path(scratch) / path.name
            _run(compiler, *FLAGS, "-shared", *objects, "-o", str(linked))
            content = linked.read_bytes()
            linked.write_bytes(content + hashlib.sha256(content).digest())
            linked.replace(path)
    return path


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS).stdout


def _key(compiler: str) -> str:
    """Differs wherever another library would come out: sources, flags, compiler, processor."""
    version = _run(compiler, "--version")
    parts = [path.name + path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.[ch]*"))]
    return hashlib.sha256("\0".join([*parts, *FLAGS, version, _processor()]).encode()).hexdigest()[:32]


def _processor() -> str:
    """Architecture and instruction sets: a cache directory may be shared by different machines."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


@cache
def outruns_mkl() -> bool:
    """Whether the blocked product is known to beat the one that torch takes: MKL's, on AMD's processors with AVX-512."""
    try:
        lines = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines())
    except OSError:
        return False
    vendors = {line.split()[-1] for line in lines if line.startswith("vendor_id")}
    return vendors == {"AuthenticAMD"} and all("avx512f" in line.split() for line in lines if line.startswith("flags"))


def _is_sound(path: Path) -> bool:
    """Whether the file ends with the SHA-256 of what is before it: loading a damaged one could end the process."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    for name, arguments in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, ctypes.c_int if name in ANSWERING else None
    return library
