"""The Hugging Face dataset: against a stand-in for `datasets`, and the package itself where it is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from framework.datasets.hugging_face import HuggingFaceDataset
from framework.errors import DataError


class Table:
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    @property
    def column_names(self) -> list[str]:
        return list(self.rows[0])

    def select_columns(self, names: list[str]) -> Table:
        return Table([{name: row[name] for name in names} for row in self.rows])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A `datasets` of three rows that notes how it is called."""
    made: list[dict[str, Any]] = []

    def load_dataset(name: str, config: str | None, **settings: Any) -> Table:
        if name == "missing":
            raise FileNotFoundError("Couldn't find 'missing' on the hub\nsecond line")
        made.append({"name": name, "config": config, **settings})
        return Table([{"text": "one", "id": 1}, {"text": None, "id": 2}, {"text": "three", "id": 3}])

    stand_in = ModuleType("datasets")
    stand_in.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    return made


def test_rows_become_documents(calls: list[dict[str, Any]]) -> None:
    documents = list(HuggingFaceDataset("user/corpus", config="small", split="test", revision="abc", streaming=True))
    assert [(document.text, document.source) for document in documents] == [("one", "user/corpus:0"), ("three", "user/corpus:2")]
    assert calls == [{"name": "user/corpus", "config": "small", "split": "test", "revision": "abc", "streaming": True}]


def test_rows_have_every_column(calls: list[dict[str, Any]]) -> None:
    rows = list(HuggingFaceDataset("user/corpus", column="another").rows())
    assert rows[:2] == [({"text": "one", "id": 1}, "user/corpus:0"), ({"text": None, "id": 2}, "user/corpus:1")]
    with pytest.raises(DataError, match="Couldn't find 'missing'"):
        list(HuggingFaceDataset("missing").rows())


def test_mistakes_are_named(calls: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match=r"no column body \(it has text, id\)"):
        list(HuggingFaceDataset("user/corpus", column="body"))
    with pytest.raises(DataError, match="the column id holds int, not text"):
        list(HuggingFaceDataset("user/corpus", column="id"))
    with pytest.raises(DataError, match=r"missing, split train: Couldn't find 'missing' on the hub$"):
        list(HuggingFaceDataset("missing"))


def test_the_fingerprint_is_of_the_content_unless_streamed(calls: list[dict[str, Any]]) -> None:
    assert HuggingFaceDataset("one").fingerprint() == HuggingFaceDataset("two").fingerprint()
    calls.clear()
    assert HuggingFaceDataset("one", streaming=True).fingerprint() != HuggingFaceDataset("two", streaming=True).fingerprint()
    assert not calls  # nothing was downloaded for it


def test_the_fingerprint_is_of_all_columns(calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    before = HuggingFaceDataset("one").fingerprint()
    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", lambda *_, **__: Table([{"text": "one", "id": 4}]))
    one = HuggingFaceDataset("one").fingerprint()
    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", lambda *_, **__: Table([{"text": "one", "id": 5}]))
    assert len({before, one, HuggingFaceDataset("one").fingerprint()}) == 3


def test_without_the_package_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "framework\[data\]"'):
        list(HuggingFaceDataset("user/corpus"))


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="datasets is not installed")
@pytest.mark.parametrize("streaming", [False, True])
def test_the_real_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "train.jsonl").write_text("".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(5)))
    documents = HuggingFaceDataset(str(tmp_path / "corpus"), streaming=streaming)
    assert [document.text for document in documents] == [f"row {number}" for number in range(5)]
