"""The `gguf` package, imported when a GGUF file is read or written: the types of tensors, their codecs, the writer.

Knows nothing of files or models.
"""

from __future__ import annotations

from types import ModuleType

from framework.errors import CheckpointError


def gguf() -> ModuleType:
    """The package. Raises CheckpointError where it is not installed."""
    try:
        import gguf
    except ImportError as problem:
        raise CheckpointError(f"GGUF files need the package gguf ({problem}): pip install 'framework[gguf]'") from None
    return gguf
