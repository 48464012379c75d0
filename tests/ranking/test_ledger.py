"""What was confirmed is on the disk, whole; what is not ours is left alone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from framework.datasets import records
from framework.datasets.json_lines import JsonLines
from framework.errors import ConfigError, DataError, StorageError
from framework.ranking.ledger import Ledger, rankings_path, read_rankings
from framework.ranking.rankings import Ranking, Reply


def ranking(id: str, *ranks: int | None, rater: str = "ann", text: str = "reply é \ud83d \u2028 ") -> Ranking:
    replies = tuple(Reply(f"{text}{number}", number, True) for number in range(len(ranks)))
    return Ranking(id, f"prompt {id}", replies, ranks, tuple(range(len(ranks))), rater, "m", "")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "preferences.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    assert content.endswith(b"\n") or not content
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def test_what_is_added_is_there(path: Path) -> None:
    ledger = Ledger(path)
    given = [ranking("a", 1, 2, 3), ranking("b", 1, 1), ranking("c", None, None), ranking("d", 2, 1)]
    for each in given:
        ledger.add(each)
    assert [row["ranking"] for row in lines(path)] == ["a", "a", "a", "d"]
    assert list(ledger.rankings.values()) == given == list(Ledger(path).rankings.values()) == read_rankings(path)
    assert len(records.read(JsonLines(str(path)), records.preference)) == 4


def test_taking_back(path: Path) -> None:
    ledger = Ledger(path)
    one, two = ranking("a", 1, 2), ranking("b", 2, 1)
    ledger.add(one)
    ledger.add(two)
    ledger.take_back(one)
    assert [row["ranking"] for row in lines(path)] == ["b"]
    assert list(Ledger(path).rankings) == ["b"] == list(ledger.rankings)
    ledger.add(ranking("c", 1, 2))
    assert [row["ranking"] for row in lines(path)] == ["b", "c"]


@pytest.mark.parametrize("which", ["preferences", "rankings"])
def test_half_a_line_is_mended(path: Path, which: str) -> None:
    """Whatever the byte that a crash came after: rankings that are whole keep all their pairs, others leave no trace."""
    ledger = Ledger(path)
    ledger.add(ranking("a", 1, 2))
    before = rankings_path(path).stat().st_size
    ledger.add(ranking("b", 1, 2, 3))
    preferences, rankings = path.read_bytes(), rankings_path(path).read_bytes()
    first = len(preferences.split(b"\n")[0]) + 1
    start, end = (first, len(preferences)) if which == "preferences" else (before, len(rankings))
    for size in {start, start + 1, start + 9, *range(start, end, (end - start) // 5), end - 1}:
        path.write_bytes(preferences[:size] if which == "preferences" else preferences[:first])
        rankings_path(path).write_bytes(rankings if which == "preferences" else rankings[:size])
        again = Ledger(path)
        assert list(again.rankings) == (["a", "b"] if which == "preferences" else ["a"])
        assert path.read_bytes() == (preferences if which == "preferences" else preferences[:first])
        again.add(ranking("c", 1, 2))
        assert lines(path)[-1]["ranking"] == "c" and lines(rankings_path(path))[-1]["id"] == "c"


def test_preferences_that_are_lost_are_made_again(path: Path) -> None:
    Ledger(path).add(ranking("a", 1, 2))
    content = path.read_bytes()
    path.unlink()
    Ledger(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("preferences.jsonl", b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n'),
        ("preferences.jsonl", b"some notes"),
        ("preferences.rankings.jsonl", b'{"prompt": "p"}\n'),
        ("preferences.rankings.jsonl", b"[1]\n"),
        ("preferences.rankings.jsonl", b"no JSON\n"),
        ("preferences.rankings.jsonl", b"\xff\xfe\n"),
        ("preferences.rankings.jsonl", b"some notes"),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_what_is_not_ours_is_left_alone(path: Path, name: str, content: bytes, begun: bool) -> None:
    if begun:
        Ledger(path).add(ranking("a", 1, 2))
    path.parent.mkdir(exist_ok=True)
    file = path.with_name(name)
    content = (file.read_bytes() if begun else b"") + content
    file.write_bytes(content)
    with pytest.raises(DataError, match="name another output") as error:
        Ledger(path)
    assert name in str(error.value) and "\n" not in str(error.value)
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", ["preferences.txt", "a.rankings.jsonl", "folder"])
def test_names_that_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"NAME\.jsonl"):
        Ledger(tmp_path / name)


def test_a_missing_file_has_no_rankings(path: Path) -> None:
    with pytest.raises(DataError, match="there are no rankings"):
        read_rankings(path)


def test_reading_changes_nothing(path: Path) -> None:
    Ledger(path).add(ranking("a", 1, 2))
    file = rankings_path(path)
    file.write_bytes(file.read_bytes() + b'{"id": "b')
    content = file.read_bytes()
    assert [each.id for each in read_rankings(path)] == ["a"] and file.read_bytes() == content


@pytest.mark.parametrize("full_at", [1, 2])
def test_a_full_disk_leaves_all_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch, full_at: int) -> None:
    """Whether it is the ranking or its preferences that do not fit, after half a line."""
    ledger = Ledger(path)
    ledger.add(ranking("a", 1, 2))
    before = path.read_bytes(), rankings_path(path).read_bytes()
    write, calls = os.write, 0

    def full(descriptor: int, content: bytes) -> int:
        nonlocal calls
        if len(content) > 60:  # the lock's file is none of ours
            calls += 1
            if calls == full_at:
                write(descriptor, content[:20])
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StorageError, match="No space left on device; what was ranked before is kept"):
            ledger.add(ranking("b", 1, 2))
    assert (path.read_bytes(), rankings_path(path).read_bytes()) == before and list(ledger.rankings) == ["a"]
    ledger.add(ranking("b", 1, 2))
    assert [row["ranking"] for row in lines(path)] == ["a", "b"]


def test_several_processes_add_to_one_file(path: Path) -> None:
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_ledger import Ledger, ranking
ledger = Ledger(Path(sys.argv[1]))
for number in range(20):
    ledger.add(ranking(f"{sys.argv[2]}{number}", 1, 2, 3, rater=sys.argv[2]))
"""
    command = [sys.executable, "-c", code, str(path)]
    processes = [subprocess.Popen([*command, rater, str(Path(__file__).parent)]) for rater in ("ann", "bob", "eve")]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert len(lines(path)) == 3 * 20 * 3 and len(Ledger(path).rankings) == 60
    groups = [row["ranking"] for row in lines(path)[::3]]
    assert len(set(groups)) == 60, "the pairs of a ranking stay together"


def test_others_rankings_are_seen(path: Path) -> None:
    mine, theirs = Ledger(path), Ledger(path)
    theirs.add(ranking("a", 1, 2))
    assert not mine.rankings
    mine.read()
    assert list(mine.rankings) == ["a"]
