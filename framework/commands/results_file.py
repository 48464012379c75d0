"""A JSON Lines file of results that is whole or absent, and goes on where a killed run stopped.

Lines gather in a partial file beside the place: the first says what the results are of, a half one at the end is dropped. The finished
file is moved into place at once. Knows no model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framework.errors import ConfigError, StorageError
from framework.files import write_durably


class ResultsFile:
    """Takes lines one after the other; `finish` puts the file into place.

    Args:
        path: where it goes; a file that is there is replaced then.
        identity: tells these results from any others: a partial file of other results is begun anew.

    Attributes:
        lines: what a run before this one left, one object a line.
    """

    def __init__(self, path: Path, identity: str) -> None:
        if path.is_dir():
            raise ConfigError(f"the output {path} is a directory; name a file in it")
        self.path, self.partial = path, path.with_name(f".{path.name}.partial")
        head = _line({"identity": identity})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = _whole_lines(self.partial) if self.partial.exists() else []
            kept = kept if kept[:1] == [head] else [head]
            self._file = self.partial.open("r+b" if self.partial.exists() else "w+b")
            self._file.truncate(sum(map(len, kept)))
            self._file.seek(0)
            self._file.writelines(kept)
            self._file.flush()
        except OSError as cause:
            raise StorageError(f"{self.partial} cannot be written: {cause.strerror}") from None
        self._head_bytes = len(head)
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in kept[1:]]

    def write(self, fields: Mapping[str, Any]) -> None:
        """Add a line. Raises StorageError when the disk is full; what was written before is kept."""
        try:
            self._file.write(_line(fields))
            self._file.flush()
        except OSError as cause:
            raise StorageError(f"{self.partial} cannot be written: {cause.strerror}; the same command goes on where it stopped") from None

    def finish(self) -> None:
        """Put the file into place."""
        self._file.seek(self._head_bytes)
        write_durably(self.path, lambda file: file.write(self._file.read()))
        self.close()
        self.partial.unlink()

    def close(self) -> None:
        """Leave the partial file to the next run."""
        self._file.close()


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", errors="backslashreplace") + b"\n"


def _whole_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
