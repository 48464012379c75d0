"""Directories that are whole or absent, and say what is in them: framework.json has a SHA-256 for every file and for itself.

What fills a directory flows in, the directory flows out; it is written beside its place and moved there. Must not know what the files mean.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

import framework
from framework.errors import CheckpointError
from framework.files import sha256, sync
from framework.registry import CORE, families, registry

FORMAT_VERSION = 1
MANIFEST = "framework.json"
PART_BYTES = 2**25  # larger files are compared in parts of so many bytes, by all cores at once
BUFFER_BYTES = 2**20


def write_whole(directory: Path, write: Callable[[Path], str]) -> str:
    """Write a directory whole or not at all, in the place of one of ours, an empty one or none.

    Args:
        directory: its place.
        write: fills an empty directory, manifest included (`seal`); returns a line about it.

    Returns:
        The place, and that line.

    Raises:
        CheckpointError: the directory cannot be written, or holds something else.
    """
    directory = settled(Path(directory))
    if directory.exists() and not (directory / MANIFEST).is_file() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(f"{directory} exists and is no directory of ours; give a new or an empty one")
    partial = directory.with_name(f".{directory.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a save that was killed
        partial.mkdir(parents=True)
        summary = write(partial)
        _replace(directory, partial)
    except Exception as cause:
        settled(directory)
        # the Rust libraries raise errors of their own, or bare Exceptions, for what the operating system refused
        if isinstance(cause, OSError | SafetensorError) or "os error" in str(cause):
            raise CheckpointError(f"{directory} could not be written and is as it was: {cause}") from cause
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return f"{directory}: {summary}"


def seal(directory: Path, content: Mapping[str, Any]) -> None:
    """Write a directory's framework.json: what it is, the versions, and a SHA-256 for every file, for parts of large ones and for itself."""
    files = sorted(directory.iterdir())
    with ThreadPoolExecutor() as threads:
        whole = {file.name: threads.submit(sha256, file) for file in files}
        parts = {file.name: [threads.submit(_sha256, file, part) for part in _parts(file)] for file in files if len(_parts(file)) > 1}
    manifest = {
        "format_version": FORMAT_VERSION,
        "framework_version": framework.__version__,
        **content,
        "plugins": _plugins(),
        "files": {name: digest.result() for name, digest in whole.items()},
        "parts": {name: [digest.result() for digest in digests] for name, digests in parts.items()},
    }
    write_json(directory / MANIFEST, manifest | {"sha256": _digest(manifest)})


def verify(directory: Path) -> dict[str, Any]:
    """The contents of framework.json, after comparing every file with its SHA-256. Raises CheckpointError naming the damaged file."""
    with verified(directory) as manifest:
        return manifest


@contextmanager
def verified(directory: Path) -> Iterator[dict[str, Any]]:
    """`verify`, the files being compared on other threads while what stands inside uses them; its end waits for all of them.

    What a damaged file made go wrong inside is reported as what it is: the file that is damaged.
    """
    manifest = _manifest(Path(directory))
    with ThreadPoolExecutor() as threads:
        parts = manifest.get("parts", {})
        files = [
            compared
            for name, digest in manifest["files"].items()
            for compared in _compare(Path(directory) / name, digest, parts.get(name), threads)
        ]
        try:
            yield manifest
        finally:
            for name, matches in files:
                if not matches.result():
                    raise CheckpointError(f"{Path(directory) / name} is damaged: it does not match its SHA-256 in {MANIFEST}")


def _manifest(directory: Path) -> dict[str, Any]:
    """The contents of framework.json, after comparing it with its own SHA-256."""
    manifest = read_json(directory / MANIFEST)
    if manifest.get("sha256") != _digest(manifest):
        raise CheckpointError(f"{directory / MANIFEST} is damaged: it does not match its own SHA-256")
    if manifest["format_version"] > FORMAT_VERSION:
        raise CheckpointError(f"{directory} was written by framework {manifest['framework_version']}, which is newer: upgrade")
    return manifest


def _compare(file: Path, digest: str, parts: Sequence[str] | None, threads: ThreadPoolExecutor) -> list[tuple[str, Future[bool]]]:
    """Whether a file, or each part of it, has its digest, as soon as a thread has looked."""
    if not file.is_file():
        raise CheckpointError(f"{file} is missing")
    if parts is None or len(parts) != len(_parts(file)):
        return [(file.name, threads.submit(lambda: sha256(file) == digest))]
    return [(file.name, threads.submit(_matches, file, part, expected)) for part, expected in zip(_parts(file), parts, strict=True)]


def _matches(file: Path, start: int, digest: str) -> bool:
    return _sha256(file, start) == digest


def _parts(file: Path) -> range:
    """Where each part of a file begins."""
    return range(0, file.stat().st_size, PART_BYTES)


def _sha256(file: Path, start: int) -> str:
    """SHA-256 (hex) of the part of a file that begins there."""
    digest, left = hashlib.sha256(), PART_BYTES
    with file.open("rb") as opened:
        opened.seek(start)
        while left and (read := opened.read(min(left, BUFFER_BYTES))):
            digest.update(read)
            left -= len(read)
    return digest.hexdigest()


def settled(directory: Path) -> Path:
    """The resolved path, after putting back a directory whose replacement was cut short."""
    directory = directory.resolve()
    if not directory.exists() and _previous(directory).is_dir():
        _previous(directory).rename(directory)
    return directory


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object of a file. Raises CheckpointError for one that is missing or damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        raise CheckpointError(f"{file} is missing") from missing
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{file} is damaged: {problem}") from problem
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is damaged: it holds no JSON object")
    return content


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _replace(directory: Path, partial: Path) -> None:
    """Move a complete directory into place. What a crash in between leaves, `settled` and the next save put right."""
    for path in (*partial.iterdir(), partial):
        sync(path)
    previous = _previous(directory)
    _clear(previous, directory)
    if directory.exists():
        directory.rename(previous)
    partial.rename(directory)
    sync(directory.parent)
    _clear(previous, directory)


def _clear(previous: Path, directory: Path) -> None:
    """Remove a directory that was replaced; files that someone else put beside ours move on to the new one."""
    if not previous.exists():
        return
    listed = read_json(previous / MANIFEST)["files"] if (previous / MANIFEST).is_file() else {}
    for guest in previous.iterdir():
        if guest.name not in listed and not (directory / guest.name).exists():
            guest.rename(directory / guest.name)
    shutil.rmtree(previous)


def _previous(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.previous")


def _plugins() -> dict[str, str]:
    parts = [part for name in families() for part in registry(name).parts()]
    return {part.distribution: part.version for part in parts if part.distribution != CORE}


def _digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's contents, its own digest left out."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
