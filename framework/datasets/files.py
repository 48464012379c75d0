"""What the file-backed datasets share: finding files, and the SHA-256 of their content.

Paths as a user writes them flow in, existing files in a fixed order flow out. Must not know formats.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from framework.errors import DataError


def find_files(paths: list[str] | str, suffixes: tuple[str, ...] = ()) -> list[Path]:
    """Every file that `paths` names, in the order of the list, sorted within a pattern or directory; a file named twice counts once.

    Args:
        paths: files, glob patterns (`**` crosses directories) or directories (searched through, hidden files left out).
        suffixes: endings of the files wanted from a directory; empty: all.

    Raises:
        DataError: a path that names nothing, or a directory without a fitting file.
    """
    found: dict[Path, None] = {}
    for path in [paths] if isinstance(paths, str) else paths:
        found.update(dict.fromkeys(_expand(path, suffixes)))
    if not found:
        raise DataError("the list of paths is empty; name at least one file, glob pattern or directory.")
    return list(found)


def _expand(path: str, suffixes: tuple[str, ...]) -> list[Path]:
    given = os.path.expanduser(path)
    if os.path.isfile(given):
        return [Path(given)]
    if os.path.isdir(given):
        found = [file for file in glob.glob(os.path.join(glob.escape(given), "**"), recursive=True) if file.endswith(suffixes or "")]
    else:
        found = glob.glob(given, recursive=True)
    files = sorted((Path(file) for file in found if os.path.isfile(file)), key=Path.as_posix)
    if files:
        return files
    if os.path.isdir(given):
        wanted = f"{' or '.join(suffixes)} file" if suffixes else "file"
        raise DataError(f"the directory {path} holds no {wanted}.")
    if glob.has_magic(given):
        raise DataError(f"no file matches {path} (searched from {Path.cwd()}).")
    raise DataError(f"there is no file or directory {path} (searched from {Path.cwd()}).")


def fingerprint(files: Iterable[Path], settings: object) -> str:
    """SHA-256 (hex) over the files' contents in order and `settings` (its `repr`); reads every byte, so about a second a gigabyte.

    The paths do not enter: the same content elsewhere has the same fingerprint.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for file in files:
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
