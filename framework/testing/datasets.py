"""What every dataset must do, for its author's tests: `for check in CHECKS: check(dataset)`.

A dataset of a few records flows in; an AssertionError flows out when it breaks a promise of framework.datasets.base.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from framework.datasets.base import Dataset, Document, Documents

RECORDS = 1000  # looked at; a large dataset need not be read to its end


class Texts(Documents):
    """Documents held in memory: for tests that need a small dataset.

    Args:
        texts: the documents' texts.
    """

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def __iter__(self) -> Iterator[Document]:
        return (Document(text, f"text {number}") for number, text in enumerate(self.texts))

    def fingerprint(self) -> str:
        """Of the texts, in order."""
        return hashlib.sha256(repr(self.texts).encode()).hexdigest()


def _first(dataset: Dataset[Any]) -> list[Any]:
    return list(islice(iter(dataset), RECORDS))


def check_same_order_twice(dataset: Dataset[Any]) -> None:
    """Every iteration starts at the first record and gives the same ones, also while another iteration is under way."""
    under_way = iter(dataset)
    begun = [next(under_way)]
    first = _first(dataset)
    assert first == _first(dataset), "a second iteration gave other records, or another order"
    assert begun + list(islice(under_way, len(first) - 1)) == first, "two iterations at once disturb each other"


def check_fingerprint_is_stable(dataset: Dataset[Any]) -> None:
    """The fingerprint is 64 hexadecimal digits, the same before and after iterating and for a copy."""
    before = dataset.fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", before), f"the fingerprint is no SHA-256 in hex: {before!r}"
    _first(dataset)
    assert dataset.fingerprint() == before, "iterating changed the fingerprint"
    assert copy.deepcopy(dataset).fingerprint() == before, "a copy has another fingerprint"


def check_has_records(dataset: Dataset[Any]) -> None:
    """There is a record; a dataset without any raises DataError instead of ending at once."""
    assert _first(dataset), "the dataset gave no record"


def check_documents_hold_text(dataset: Dataset[Any]) -> None:
    """A Document's text is a str that is not empty and can be encoded, and its source says where it came from."""
    for record in _first(dataset):
        if isinstance(record, Document):
            assert isinstance(record.text, str), f"{record.source}: the text is no str"
            assert record.text.encode(), f"{record.source}: the text is empty"
            assert isinstance(record.source, str), "a document whose source is no str"


def check_pickles(dataset: Dataset[Any]) -> None:
    """The dataset crosses to another process whole, having been iterated or not."""
    first = _first(dataset)
    again = pickle.loads(pickle.dumps(dataset))
    assert _first(again) == first, "an unpickled copy gave other records"
    assert again.fingerprint() == dataset.fingerprint(), "an unpickled copy has another fingerprint"


CHECKS: tuple[Callable[[Dataset[Any]], None], ...] = (
    check_has_records,
    check_same_order_twice,
    check_fingerprint_is_stable,
    check_documents_hold_text,
    check_pickles,
)
