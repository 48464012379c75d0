"""Tokens as a person looks at them: every one of a batch once, each with what it is, in a terminal and on a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch

from framework.batches.demonstrations import _batch
from framework.batches.records import Example
from framework.batches.types import IGNORE, PairBatch, TokenBatch
from framework.inspection import page, terminal
from framework.inspection.tokens import ShownRow, prompt_row, shown_rows, token_text
from framework.tokenizers.byte import Byte

TOKENIZER = Byte()
EOS = TOKENIZER.eos_id


class PadIsEnd(Byte):
    @property
    def pad_id(self) -> int:
        return self.eos_id


def example(prompt: str, reply: str) -> Example:
    ids = [*prompt.encode(), *reply.encode(), EOS]
    return Example(np.array(ids, dtype=np.int32), np.array([False] * len(prompt) + [True] * (len(ids) - len(prompt))))


def texts(row: ShownRow) -> tuple[str, str]:
    """What is shown of a row's documents, and what of it is trained."""
    real = [token for token in row.tokens if not token.padding]
    return "".join(token.text for token in real), "".join(token.text for token in real if token.trained)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, PadIsEnd()], ids=["pad of its own", "pad is the end"])
@pytest.mark.parametrize("packed", [True, False])
def test_every_token_once_with_what_is_trained(packed: bool, tokenizer: Byte) -> None:
    one, other = example("1+1=", "2"), example("10+1=", "11")
    end = token_text(tokenizer, EOS)
    batch = _batch([[one, other]] if packed else [[one], [other]], packed, tokenizer.pad_id)
    rows = list(shown_rows(batch, tokenizer))
    if packed:
        assert texts(rows[0]) == (f"1+1=2{end}10+1=11{end}", f"2{end}11{end}")
        assert [token.position for token in rows[0].tokens] == [*range(6), *range(8)]
        assert [token.document for token in rows[0].tokens] == [0] * 6 + [1] * 8
        assert rows[0].summary == "row 0: 14 tokens, 2 documents, 5 trained, 0 padding"
    else:
        assert [texts(row) for row in rows] == [(f"1+1=2{end}", f"2{end}"), (f"10+1=11{end}", f"11{end}")]
        assert rows[0].summary == "row 0: 6 tokens, 2 trained, 2 padding"


def test_running_text_has_its_first_token_untrained() -> None:
    ids = torch.tensor([[*b"abcd"]])
    (row,) = shown_rows(TokenBatch(ids, torch.tensor([[*b"bcde"]])), TOKENIZER)
    assert texts(row) == ("abcde", "bcde")


def test_pairs() -> None:
    ids = torch.tensor([[*b"ab", EOS, EOS, EOS], [*b"acde", EOS]])
    targets = torch.tensor([[*b"b", EOS, IGNORE, IGNORE, IGNORE], [*b"cde", EOS, IGNORE]])
    batch = PairBatch(ids, targets, torch.tensor([3, 5]), torch.zeros(1), torch.zeros(1), torch.ones(1))
    chosen, rejected = shown_rows(batch, TOKENIZER)
    end = token_text(TOKENIZER, EOS)
    assert (chosen.title, rejected.title) == ("pair 0 chosen", "pair 0 rejected")
    assert (texts(chosen), texts(rejected)) == ((f"ab{end}", f"b{end}"), (f"acde{end}", f"cde{end}"))
    assert sum(token.padding for token in chosen.tokens) == 2


def test_a_prompt_is_not_trained_and_other_batches_are_refused() -> None:
    assert texts(prompt_row("prompt 0", [*b"hi"], TOKENIZER)) == ("hi", "")
    with pytest.raises(TypeError, match="int has no tokens"):
        list(shown_rows(3, TOKENIZER))


def test_bytes_that_are_no_text() -> None:
    assert token_text(TOKENIZER, 0xFF) == "\\xff" and token_text(TOKENIZER, ord("a")) == "a"


def packed_row() -> ShownRow:
    long = example("<b>&", "é\n ")
    batch = _batch([[example("1+1=", "2"), example("3-1=", "2")], [long, example("a" * 20, "b")]], True, TOKENIZER.pad_id)
    return next(iter(shown_rows(batch, TOKENIZER)))


def test_brackets_and_colours_say_the_same() -> None:
    row, end = packed_row(), token_text(TOKENIZER, EOS)
    summary, plain = terminal.lines(row, colour=False)
    _, coloured = terminal.lines(row, colour=True)
    assert summary == row.summary and "\033" not in plain
    padding = sum(token.padding for token in row.tokens)
    assert plain == f"1+1=[[2{end}]]\n--- document 1\n3-1=[[2{end}]]<pad x {padding}>"
    trained = "".join(re.findall(r"\033\[30;4[26]m(.*?)\033\[0m", coloured))
    assert trained == f"2{end}2{end}"
    bare = re.sub(r"\033\[[\d;]*m", "", coloured)
    assert bare == plain.replace("[[", "").replace("]]", "").replace(f"<pad x {padding}>", "·" * padding)


def test_a_table_has_a_line_a_token() -> None:
    row = packed_row()
    summary, heading, *lines = terminal.table(row)
    assert summary == row.summary and heading.split() == ["position", "document", "id", "trained", "token"]
    assert lines[4].split() == ["4", "0", "50", "yes", "'2'"] and lines[0].split() == ["0", "0", "49", "'1'"]
    assert len(lines) == sum(not token.padding for token in row.tokens)


class Spans(HTMLParser):
    """Classes, tooltip and text of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[set[str], str, str]] = []

    def handle_starttag(self, tag: str, attributes: list[Any]) -> None:
        if tag == "span":
            given = dict(attributes)
            self.found.append((set(given["class"].split()), given.get("title") or "", ""))

    def handle_data(self, data: str) -> None:
        if self.found:
            classes, title, text = self.found[-1]
            self.found[-1] = classes, title, text + data

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self.found.append((set(), "", ""))  # what stands between


def test_the_page_escapes_and_tells_each_token() -> None:
    row = next(iter(shown_rows(_batch([[example("<b>&", "x\n")], [example("a" * 9, "b")]], True, TOKENIZER.pad_id), TOKENIZER)))
    made = page.page("<title>", [("rows & more", "1 < 2")], [[row]])
    assert "<title>&lt;title&gt;</title>" in made and "<b>" not in made and "rows &amp; more" in made and "1 &lt; 2" in made
    assert "http" not in made and "<script" not in made  # stands alone
    spans = Spans()
    spans.feed(made)
    tokens = [span for span in spans.found if span[1]]
    assert "".join(text for classes, _, text in tokens if "padding" not in classes) == f"<b>&x⏎\n{token_text(TOKENIZER, EOS)}"
    trained = [text for classes, _, text in tokens if "trained" in classes]
    assert trained == ["x", "⏎\n", token_text(TOKENIZER, EOS)]
    assert tokens[0][0] == {"token", "begins"} and tokens[0][1] == "id 60, position 0, document 0"
    assert tokens[4][1].endswith(", trained") and {"special", "trained"} <= tokens[6][0]
    assert sum("padding" in classes for classes, *_ in tokens) == sum(token.padding for token in row.tokens)


def test_documents_of_a_row_stand_apart() -> None:
    made = page.page("t", [], [[packed_row()]])
    assert made.count("begins") - made.count(".begins") == 3  # two of them, and the legend's word
