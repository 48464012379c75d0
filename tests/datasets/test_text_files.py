"""Text files, a package's files and the standard library as documents."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from framework.datasets.text_files import PackageFiles, StandardLibrary, TextFiles
from framework.errors import DataError


def texts(dataset: TextFiles | PackageFiles) -> list[str]:
    return [document.text for document in dataset]


def test_one_document_a_file_to_the_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\r\ntwo é\n".encode())
    (tmp_path / "b.txt").write_bytes(b"three")
    dataset = TextFiles(str(tmp_path))
    assert texts(dataset) == ["one\r\ntwo é\n", "three"]
    assert [document.source for document in dataset] == [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]


def test_an_empty_file_found_by_search_is_passed_over_but_named_itself_it_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "empty.txt").touch()
    assert texts(TextFiles(f"{tmp_path}/*.txt")) == ["text"]
    with pytest.raises(DataError, match=r"empty\.txt is empty"):
        texts(TextFiles([f"{tmp_path}/a.txt", f"{tmp_path}/empty.txt"]))


def test_a_corpus_without_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=r"no file.*empty\.txt"):
        texts(TextFiles(str(tmp_path)))


def test_undecodable_bytes_are_named_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("né".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt is no utf-8 text: byte 1 is 0xe9; set the dataset's encoding"):
        texts(TextFiles(str(tmp_path)))
    assert texts(TextFiles(str(tmp_path), encoding="latin-1")) == ["né"]
    with pytest.raises(DataError, match="utf8000"):
        texts(TextFiles(str(tmp_path), encoding="utf8000"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that must not be run."""
    home = tmp_path / "plays_of_nobody"
    (home / "texts" / "late").mkdir(parents=True)
    (home / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    (home / "texts" / "b.md").write_text("second")
    (home / "texts" / "late" / "c.md").write_text("third")
    (home / "texts" / "a.md").write_text("first")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "plays_of_nobody"


def test_a_packages_files_are_read_and_its_code_is_not_run(package: str) -> None:
    dataset = PackageFiles(package, "texts/**/*.md")
    assert texts(dataset) == ["first", "second", "third"]
    assert package not in sys.modules


def test_a_distribution_may_be_named_instead_of_its_package() -> None:
    assert texts(PackageFiles("Pluggy", "*.py")) == texts(PackageFiles("pluggy", "*.py"))


def test_a_missing_package_or_file_is_named(package: str) -> None:
    with pytest.raises(DataError, match="pip install no_such_package"):
        texts(PackageFiles("no_such_package"))
    with pytest.raises(DataError, match=r"plays_of_nobody has no file \*\*/\*\.txt"):
        texts(PackageFiles(package))


def test_the_standard_library_is_about_11_megabytes_of_sources() -> None:
    documents = list(StandardLibrary())
    assert 8e6 < sum(len(document.text) for document in documents) < 16e6
    names = {Path(document.source).name for document in documents}
    assert {"argparse.py", "typing.py"} <= names
    for left_out in ("/test/", "/idlelib/", "/lib2to3/", "/site-packages/", "/__pycache__/", "_sysconfigdata"):
        assert not any(left_out in document.source for document in documents)
    assert [document.source for document in documents] == sorted(document.source for document in documents)
