"""Finding files: patterns, directories, order, and errors that name what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.datasets.files import find_files, fingerprint
from framework.errors import DataError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.txt", "deep/er/c.txt", "deep/d.md", ".hidden.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def names(tree: Path, files: list[Path]) -> list[str]:
    return [file.relative_to(tree).as_posix() for file in files]


def test_a_directory_is_searched_through_and_sorted(tree: Path) -> None:
    assert names(tree, find_files(str(tree))) == ["a.txt", "b.txt", "deep/d.md", "deep/er/c.txt"]
    assert names(tree, find_files(str(tree), (".md",))) == ["deep/d.md"]


def test_patterns(tree: Path) -> None:
    assert names(tree, find_files(f"{tree}/*.txt")) == ["a.txt", "b.txt"]
    assert names(tree, find_files(f"{tree}/**/*.txt")) == ["a.txt", "b.txt", "deep/er/c.txt"]


def test_the_order_of_the_list_holds_and_a_file_counts_once(tree: Path) -> None:
    assert names(tree, find_files([f"{tree}/b.txt", f"{tree}/*.txt"])) == ["b.txt", "a.txt"]


@pytest.mark.parametrize("path", ["missing.txt", "*.csv", "missing/**/*.txt"])
def test_what_is_missing_is_named(tree: Path, path: str) -> None:
    with pytest.raises(DataError, match=path.replace("*", r"\*")):
        find_files(f"{tree}/{path}")


def test_a_directory_without_a_fitting_file_is_named(tree: Path) -> None:
    with pytest.raises(DataError, match=r"deep holds no \.parquet file"):
        find_files(f"{tree}/deep", (".parquet",))
    with pytest.raises(DataError, match="empty"):
        find_files([])


def test_the_fingerprint_follows_content_and_order_and_not_the_place(tmp_path: Path) -> None:
    def write(folder: str, *contents: str) -> list[Path]:
        (tmp_path / folder).mkdir()
        paths = [tmp_path / folder / f"{number}.txt" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_text(content)
        return paths

    here = fingerprint(write("one", "ab", "c"), "utf-8")
    assert fingerprint(write("two", "ab", "c"), "utf-8") == here
    assert fingerprint(write("three", "a", "bc"), "utf-8") != here
    assert fingerprint(write("four", "c", "ab"), "utf-8") != here
    assert fingerprint(write("five", "ab", "c"), "latin-1") != here
