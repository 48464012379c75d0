"""The two files of rankings: what every person said, and the preferences that follow from it.

Rankings flow in, each with one durable append, and out again at the next start. Must not know models or pages.

    preferences.jsonl           a line for each pair: what a reward model trains on; made from the other file
    preferences.rankings.jsonl  a line for each ranking, ties and skips too, or for one that was taken back: what counts

A ranking counts once its line is in the second file whole. What a crash kept from the first file is made up for at the next start; half
a line, which was never confirmed to anyone, is dropped. Several processes may add to the same files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from framework.errors import ConfigError, DataError, StorageError
from framework.files import sync, write_durably
from framework.ranking.rankings import Ranking

LOCK_SECONDS = 30.0
TAKEN_BACK = "taken_back"  # the field of a line that holds the id of a ranking
HEADS = (b'{"id": "', b'{"taken_back": "')  # of the lines of rankings


class Ledger:
    """Rankings on disk.

    Args:
        path: of the preferences; the rankings are beside them.

    Attributes:
        rankings: those that count, by id, in the order they were made; other processes' as of the last `add` or `read`.

    Raises:
        ConfigError: the path is a directory, or ends like the rankings' own.
        DataError: one of the files is damaged, or not from here; nothing was changed then.
        StorageError: they cannot be written.
    """

    def __init__(self, path: Path) -> None:
        from filelock import FileLock

        if path.is_dir() or path.name.endswith(".rankings.jsonl") or path.suffix != ".jsonl":
            raise ConfigError(f"the output {path} must be a file NAME.jsonl; the rankings go to NAME.rankings.jsonl beside it")
        self.path, self.rankings_path = path, rankings_path(path)
        self.rankings: dict[str, Ranking] = {}
        self._read_bytes = 0
        self._lines: set[bytes] = set()  # every preference that any ranking here has ever made
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS)
            with self._locked():
                self._read_more()
                self._restore_preferences()
        except OSError as cause:
            raise StorageError(f"{path} cannot be written: {cause.strerror}") from None

    def add(self, ranking: Ranking) -> None:
        """Write a ranking and its preferences; both are on the disk when this returns. Raises StorageError, and nothing was added then."""
        with self._locked():
            self._read_more()
            if not _ends_whole(self.path):  # another process was killed in the middle of a line
                self._restore_preferences()
            _append(self.rankings_path, _line(ranking.to_json()))
            try:
                _append(self.path, b"".join(map(_line, ranking.preferences())))
            except StorageError:
                _truncate(self.rankings_path, self._read_bytes)
                raise
            self._read_more()

    def take_back(self, ranking: Ranking) -> None:
        """Let a ranking no longer count, and take its preferences out. Raises StorageError as `add`."""
        with self._locked():
            self._read_more()
            _append(self.rankings_path, _line({TAKEN_BACK: ranking.id}))
            self._read_more()
            self._restore_preferences()

    def read(self) -> None:
        """Take in what other processes have added."""
        with self._locked():
            self._read_more()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import Timeout

        try:
            with self._lock:
                yield
        except Timeout:
            raise StorageError(f"{self.path} is locked by another process for {LOCK_SECONDS:g} s: end that one, or try again") from None

    def _read_more(self) -> None:
        """Take in the rankings that were added since, and drop half a line at the end."""
        if not self.rankings_path.exists():
            return
        whole = _whole_lines(self.rankings_path, self._read_bytes)
        for ranking in _take(whole, self.rankings_path, self.rankings):
            self._lines |= set(map(_line, ranking.preferences()))
        self._read_bytes += len(whole)
        if self.rankings_path.stat().st_size > self._read_bytes:
            _truncate(self.rankings_path, self._read_bytes)

    def _restore_preferences(self) -> None:
        """Make the file of preferences what the rankings say. Raises DataError, and changes nothing, if it holds anything else."""
        wanted = b"".join(_line(row) for ranking in self.rankings.values() for row in ranking.preferences())
        there = self.path.read_bytes() if self.path.exists() else b""
        if there == wanted:
            return
        *lines, torn = there.split(b"\n")
        foreign = next((number for number, line in enumerate(lines, start=1) if line + b"\n" not in self._lines), None)
        if foreign is None and torn and not any(line.startswith(torn) for line in self._lines):
            foreign = len(lines) + 1
        if foreign is not None:
            raise DataError(f"{self.path}:{foreign} is not from the rankings in {self.rankings_path}; name another output, or mend it")
        write_durably(self.path, lambda file: file.write(wanted))


def rankings_path(preferences: Path) -> Path:
    """Where the rankings are that a file of preferences was made from."""
    return preferences.with_name(f"{preferences.stem}.rankings.jsonl")


def read_rankings(preferences: Path) -> list[Ranking]:
    """The rankings that a file of preferences was made from; changes nothing. Raises DataError for files that are missing or damaged."""
    path = rankings_path(preferences)
    if not path.is_file():
        raise DataError(f"there are no rankings {path}: framework rank writes them beside the preferences")
    rankings: dict[str, Ranking] = {}
    for _ in _take(_whole_lines(path, 0), path, rankings):
        pass
    return list(rankings.values())


def _whole_lines(path: Path, start: int) -> bytes:
    """The content from a byte on to the last end of a line. Raises DataError where what follows is no beginning of ours."""
    with path.open("rb") as file:
        file.seek(start)
        content = file.read()
    end = content.rfind(b"\n") + 1
    if not any(content[end:].startswith(head[: len(content) - end]) for head in HEADS):
        raise DataError(f"{path} ends with what is not from framework rank; name another output, or mend it")
    return content[:end]


def _take(lines: bytes, path: Path, rankings: dict[str, Ranking]) -> Iterator[Ranking]:
    """Take lines in to the rankings that count; gives each ranking of theirs."""
    for number, line in enumerate(lines.split(b"\n")[:-1], start=1):
        try:
            fields = json.loads(line)
            if not isinstance(fields, Mapping):
                raise DataError("it is no object")
            if TAKEN_BACK in fields:
                rankings.pop(fields[TAKEN_BACK], None)
                continue
            ranking = Ranking.from_json(fields)
        except (ValueError, DataError) as problem:
            raise DataError(f"line {number} of {path} is damaged or not from framework rank: {problem}; name another output") from None
        rankings[ranking.id] = ranking
        yield ranking


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", errors="backslashreplace") + b"\n"


def _append(path: Path, content: bytes) -> None:
    """All of it at the end of the file and on the disk, or none of it."""
    if not content:
        return
    is_new = not path.exists()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(descriptor).st_size
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
        if is_new:
            sync(path.parent)
    except OSError as cause:
        raise StorageError(f"{path} cannot be written: {cause.strerror}; what was ranked before is kept") from None


def _ends_whole(path: Path) -> bool:
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _truncate(path: Path, size: int) -> None:
    os.truncate(path, size)
    sync(path)
