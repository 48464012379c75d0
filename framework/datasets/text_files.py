"""Text files as documents, one a file: files by path, an installed package's, or the Python standard library's own.

Paths flow in, documents flow out, exactly as the bytes decode (no line ending is changed). Must not know tokenizers.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sysconfig
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

from framework.datasets import files
from framework.datasets.base import Document, Documents
from framework.errors import DataError

LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}


class TextFiles(Documents):
    """One document a file, in the order of `paths`, sorted within a pattern or directory. Empty files found by search are passed over.

    Args:
        paths: a file, a glob pattern (`**` crosses directories) or a directory; or a list of those.
        encoding: how the bytes become text; `utf-8-sig` drops a byte-order mark.
    """

    def __init__(self, paths: list[str] | str, encoding: str = "utf-8") -> None:
        self.paths = paths
        self.encoding = encoding

    def __iter__(self) -> Iterator[Document]:
        named = [self.paths] if isinstance(self.paths, str) else self.paths
        return _documents(files.find_files(self.paths), self.encoding, {str(Path(path).expanduser()) for path in named})

    def fingerprint(self) -> str:
        """Of the files' contents, in order."""
        return files.fingerprint(files.find_files(self.paths), ("text", self.encoding))


class PackageFiles(Documents):
    """The text files inside an installed package, one document a file, sorted by path; the package's code is never run.

    Args:
        package: import name (or name on the package index) of an installed package.
        pattern: glob pattern relative to the package's directory.
    """

    def __init__(self, package: str, pattern: str = "**/*.txt") -> None:
        self.package = package
        self.pattern = pattern

    def _files(self) -> list[Path]:
        places = _package_directories(self.package)
        found = sorted(
            (file.relative_to(place).as_posix(), file) for place in places for file in place.glob(self.pattern) if file.is_file()
        )
        if not found:
            raise DataError(f"the package {self.package} has no file {self.pattern} (searched {', '.join(map(str, places))}).")
        return [file for _, file in found]

    def __iter__(self) -> Iterator[Document]:
        return _documents(self._files(), "utf-8")

    def fingerprint(self) -> str:
        """Of the files' contents, in order."""
        return files.fingerprint(self._files(), ("text", "utf-8"))


class StandardLibrary(Documents):
    """The Python standard library's own sources, about 11 MB: real text that every machine has. One document a module, sorted by path.

    Left out: tests, idlelib, lib2to3, installed packages and the files that describe this machine's build.
    """

    def _files(self) -> list[Path]:
        root = Path(sysconfig.get_path("stdlib"))
        wanted = []
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if name not in LEFT_OUT and not name.startswith("config-")]  # walked no further
            wanted += [Path(folder, name) for name in names if name.endswith(".py") and not name.startswith("_sysconfigdata")]
        if not wanted:
            raise DataError(f"this Python keeps no standard library sources in {root}; give another dataset, such as TextFiles.")
        return sorted(wanted, key=lambda file: file.relative_to(root).as_posix())

    def __iter__(self) -> Iterator[Document]:
        return _documents(self._files(), "utf-8")

    def fingerprint(self) -> str:
        """Of the files' contents, in order."""
        return files.fingerprint(self._files(), ("text", "utf-8"))


def _package_directories(package: str) -> list[Path]:
    """Where an installed package's files are, by import name or by distribution name, importing nothing of it."""
    try:
        spec = importlib.util.find_spec(package) if "." not in package and package.isidentifier() else None
    except ValueError:  # a module that was made by hand has no spec
        spec = None
    if spec is not None and spec.submodule_search_locations:
        return [Path(place) for place in spec.submodule_search_locations]
    try:
        installed = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise DataError(f"there is no installed package {package}; install it first: pip install {package}") from None
    tops = {Path(str(file.locate())).parents[len(file.parts) - 2] for file in installed if len(file.parts) > 1 and file.parts[0] != ".."}
    return sorted(top for top in tops if not top.name.endswith((".dist-info", ".egg-info")))


def _documents(found: list[Path], encoding: str, named: AbstractSet[str] = frozenset()) -> Iterator[Document]:
    """One document a file that holds text; DataError for one of `named` that is empty, and when no file holds any."""
    empty = True
    for file in found:
        text = _read(file, encoding)
        if text:
            empty = False
            yield Document(text, str(file))
        elif str(file) in named:
            raise DataError(f"the file {file} is empty; remove it from the dataset's paths.")
    if empty:
        raise DataError(f"no file of the dataset holds any text ({len(found)} empty files, the first is {found[0]}).")


def _read(file: Path, encoding: str) -> str:
    try:
        return file.read_bytes().decode(encoding)
    except UnicodeDecodeError as cause:
        raise DataError(
            f"{file} is no {encoding} text: byte {cause.start} is {file.read_bytes()[cause.start]:#04x}; set the dataset's encoding."
        ) from None
    except LookupError:
        raise DataError(f"there is no text encoding {encoding}; use a name Python knows, such as utf-8 or latin-1.") from None
    except OSError as cause:
        raise DataError(f"cannot read {file}: {cause.strerror}.") from None
