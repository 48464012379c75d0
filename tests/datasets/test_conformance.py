"""The built-in datasets keep the promises that plugins are held to; the checks see a dataset that breaks one."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.datasets.base import Dataset, Document, Documents
from framework.datasets.json_lines import JsonLines
from framework.datasets.mixture import Mixture
from framework.datasets.text_files import PackageFiles, StandardLibrary, TextFiles
from framework.testing.datasets import CHECKS, Texts


def text_files(folder: Path) -> Documents:
    (folder / "a.txt").write_text("first")
    (folder / "b.txt").write_text("second")
    return TextFiles(str(folder))


def json_lines(folder: Path) -> Documents:
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(b"".join(json.dumps({"text": f"{n}"}).encode() + b"\n" for n in range(9))))
    return JsonLines(str(folder))


MADE: dict[str, Callable[[Path], Documents]] = {
    "TextFiles": text_files,
    "JsonLines": json_lines,
    "PackageFiles": lambda folder: PackageFiles("json", "*.py"),
    "StandardLibrary": lambda folder: StandardLibrary(),
    "Mixture": lambda folder: Mixture([Texts(["a", "b", "c"]), Texts(["dd", "ee"])], [1, 2], repeat=True),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", MADE)
def test_built_in(name: str, check: Callable[[Dataset[Any]], None], tmp_path: Path) -> None:
    check(MADE[name](tmp_path))


class Exhausted(Texts):
    """Gives its records once."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__(texts)
        self.records = super().__iter__()

    def __iter__(self) -> Iterator[Document]:
        return self.records


class Restless(Texts):
    count = itertools.count()

    def fingerprint(self) -> str:
        return f"{next(self.count):064x}"


class Unpicklable(Texts):
    def __init__(self, texts: list[str]) -> None:
        super().__init__(texts)
        self.draw = lambda: 0


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Texts([]), "check_has_records"),
        (Exhausted(["a", "b"]), "check_same_order_twice"),
        (Restless(["a"]), "check_fingerprint_is_stable"),
        (Texts(["a", ""]), "check_documents_hold_text"),
        (Unpicklable(["a"]), "check_pickles"),
    ],
)
def test_a_broken_promise_is_seen(broken: Documents, check: str) -> None:
    with pytest.raises(Exception):  # noqa: B017 (each breaks in its own way)
        next(found for found in CHECKS if found.__name__ == check)(broken)
