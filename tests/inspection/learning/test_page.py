"""Page, text and JSON say the same; nothing on the page asks the network."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from looking import Look, looked_at  # type: ignore[import-not-found]

from framework.inspection.learning import words
from framework.inspection.learning.page import learning_page
from framework.inspection.learning.step import Learning
from framework.inspection.learning.terminal import learning_lines


@pytest.fixture
def found(small_run: Any) -> Learning:
    look = looked_at(small_run(gradient_clip_val=0.5, limit_val_batches=1), Look(3))
    result: Learning = look.learning
    return result


class Reader(HTMLParser):
    """The text of each table's cells, the JSON, and what a page asks for elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.json, self.text, self.outside, self._inside = "", "", [], ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.outside += [value for name, value in attributes if name in ("src", "href") and not (value or "").startswith("#")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag in ("script", "style", "td", "th"):
            self._inside = "json" if named.get("type") == "application/json" else tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style", "td", "th"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "json":
            self.json += data
        elif self._inside in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self._inside not in ("json", "script", "style"):
            self.text += data


def test_the_page_is_its_json(found: Learning) -> None:
    page = Reader(learning_page(found))
    plain = json.loads(page.json)
    assert plain == found.as_json() and not page.outside
    rows = plain["batch"]["rows"]
    for shown, row in zip(page.tables, rows):
        assert len(shown) - 1 == len(row["guesses"])
        for cells, guess in zip(shown[1:], row["guesses"]):
            assert cells[0] == str(guess["position"])
            assert (cells[3], cells[4]) == (words.percent(guess["probability"]), words.number(guess["loss"]))
            assert ("✓" in cells[5]) == (guess["likeliest"] == guess["target"])
    for shown, weight in zip(page.tables[len(rows) :], plain["weights"]):
        values = {cells[0]: cells[1] for cells in shown[1:]}
        assert values["gradient"] == words.number(weight["gradient"]) and values["slope"] == words.number(weight["finite_difference"])
        assert values["given"] == words.number(weight["given"]) and values["change"] == words.number(weight["change"])
        for name, key in {"m corrected": "corrected_first", "adaptive part": "adaptive", "decay part": "decay"}.items():
            assert values[name] == words.number(weight["adamw"][key])
    for cells, one in zip(page.tables[-1][1:], plain["parameters"], strict=True):
        assert cells[0].startswith(one["name"])
        assert cells[3:7] == [
            words.number(one[key], digits) for key, digits in (("weight_norm", 4), ("gradient_norm", 4), ("update_norm", 4), ("ratio", 3))
        ]


def test_the_graph_on_the_page_has_every_node(found: Learning) -> None:
    page = learning_page(found)
    for call in found.graph.walk():
        assert call.kind in page
    titles = re.findall(r'<span class="node[^"]*" title="([^"]*)"', page)
    nodes = [node for call in found.graph.walk() for node in call.nodes]
    expected = [node.name if node.parameter is None else f"{node.name}: {node.parameter}" for node in nodes]
    assert sorted(titles) == sorted(expected)


def test_the_text_says_the_same(found: Learning) -> None:
    text = "\n".join(learning_lines(found, colour=False))
    assert "\033" not in text and "\033" in "\n".join(learning_lines(found, colour=True))
    for name, value in words.facts(found.summary):
        assert re.search(rf"^  {re.escape(name)} +{re.escape(value)}$", text, re.M)
    for row in found.batch.rows:
        assert words.row_title(row) in text
        for guess in row.guesses:
            assert re.search(rf"^ *{guess.position} .* {re.escape(words.number(guess.loss))}   ", text, re.M)
    for weight in found.weights:
        assert words.weight_sentence(weight) in text
        for line in words.weight_lines(weight):
            assert re.search(rf"^  {re.escape(line.what)} +{re.escape(line.value)}   {re.escape(line.how)}$", text, re.M)
    for one in found.parameters:
        assert re.search(rf"^{re.escape(one.name)} .*{re.escape(words.number(one.update_norm))}", text, re.M)
    assert "… and 1 more like it, up to blocks.1" in text


def test_text_from_data_cannot_become_markup(small_run: Any, tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text("<b>&</script>" * 40)
    from framework.batches.packed_text import PackedText
    from framework.datasets.text_files import TextFiles
    from framework.tokenizers.byte import Byte

    recipe, _, trainer = small_run(max_steps=1)
    data = PackedText(TextFiles(str(tmp_path)), Byte(), context_length=16, batch_size=4)
    page = learning_page(looked_at((recipe, data, trainer), Look(1)).learning)
    assert "<b>&" not in page and page.count("</script>") == 2
    assert json.loads(Reader(page).json)["batch"]["rows"]


def test_numbers_in_words() -> None:
    assert [words.number(value) for value in (None, 0.0, -1.5, 1234.5678, 1e-7)] == ["–", "0", "−1.5", "1235", "1e−07"]
    assert words.percent(0.1234) == "12.3%" and words.percent(1e-7) == "1e−07" and words.percent(0) == "0%"
    assert words.flops(1_880_000_000) == "1.88 GFLOP" and words.flops(12) == "12 FLOP"
    assert words.shape([4, 16]) == "4×16" and words.shape([]) == "scalar"
