"""What a batch must be before it is trained on: something is trained, and every reply's end with it (TRAP-4 to 6)."""

from __future__ import annotations

import pytest
import torch

from framework.batches.checks import check_targets, trained_spans
from framework.batches.types import IGNORE
from framework.errors import DataError

END, TURN, NO = 9, 8, IGNORE


def check(ids: list[list[int]], targets: list[list[int]], full_targets: int = 99) -> None:
    check_targets(torch.tensor(ids), torch.tensor(targets), {END, TURN}, full_targets, "batch 3")


def test_what_is_well_is_let_pass() -> None:
    check([[1, 2, 3, 4, TURN, 5]], [[NO, 3, TURN, NO, NO, TURN]])
    check([[1, 2, 3, 4]], [[NO, 3, END, END]])  # an end token as text, then the end
    check([[1, 2, 3], [4, 5, 6]], [[NO, 3, END], [NO, NO, NO]])  # a filler
    check([[1, 2, 3]], [[NO, 3, 4]], full_targets=3)  # cut off at the greatest length


def test_nothing_is_trained() -> None:
    with pytest.raises(DataError, match=r"batch 3: no token is trained.*chat template"):
        check([[1, 2]], [[NO, NO]])


def test_a_reply_without_its_end_is_named() -> None:
    with pytest.raises(DataError, match=r"batch 3, row 1: the reply at tokens 1 to 3 is trained without .*one of \[8, 9\]\)$"):
        check([[1, 2, 3, 4], [1, 2, 3, 4]], [[NO, NO, 4, END], [NO, 3, 4, NO]])


def test_an_end_hidden_by_the_padding_is_said() -> None:
    """Labels made with `ids == pad` masked, and the padding's id is the end's."""
    with pytest.raises(DataError, match="the end token follows and is masked: were the labels made from the padding's id"):
        check([[1, 2, 3, END, END]], [[NO, 3, NO, NO, NO]])


def test_spans() -> None:
    assert list(trained_spans([NO, 1, 2, NO, NO, 3])) == [(1, 3), (5, 6)]
    assert list(trained_spans([NO, NO])) == [] and list(trained_spans([5])) == [(0, 1)]
