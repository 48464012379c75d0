"""`framework inspect`: a model, a prompt and questions in; a text, a page and numbers out; mistakes in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.commands.arguments import run
from framework.commands.inspect_model import inspect_model
from framework.errors import UserError

PROMPT = "The cat sat"
Inspect = Callable[..., list[str]]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Inspect:
    """Runs the command; the lines on stdout."""

    def call(*words: object) -> list[str]:
        assert run("inspect", inspect_model, [str(word) for word in words]) == 0
        return capsys.readouterr().out.splitlines()

    return call


@pytest.fixture
def model(place: Path) -> Path:
    return place / "runs" / "base"


def refused(*words: object) -> str:
    with pytest.raises(UserError) as raised:
        run("inspect", inspect_model, [str(word) for word in words])
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_from_the_prompt_to_the_loop(inspect: Inspect, model: Path) -> None:
    lines = inspect(model, PROMPT, "--seed", 1)
    headings = [line for line in ("the network", "the layers", "the logit lens", "the next token", "the generation loop") if line]
    found = [next(number for number, line in enumerate(lines) if line.startswith(heading)) for heading in headings]
    assert found == sorted(found) and lines[0] == "11 tokens, 11 characters, 11 bytes"
    assert lines[-1].endswith("unchanged") and "length" in lines[-2]
    assert not any("\033" in line for line in lines)
    assert any("\033" in line for line in inspect(model, PROMPT, "--color", "always"))


def test_the_page_and_the_json_hold_the_same(inspect: Inspect, model: Path, tmp_path: Path) -> None:
    asked = ["--ablate", "layer.0.head.1", "--ablate", "every", "--patch", "layer.0@-1", "--patch_from", "The dog sat"]
    inspect(model, PROMPT, "--html", tmp_path / "p.html", "--json", tmp_path / "n.json", "--top", 4, "--temperature", 0.5, *asked)
    numbers = json.loads((tmp_path / "n.json").read_text())
    embedded = re.search(r'<script type="application/json" id="numbers">(.*?)</script>', (tmp_path / "p.html").read_text(), re.S)
    assert embedded is not None and json.loads(embedded[1]) == numbers
    assert [each["name"] for each in numbers["experiments"]] == ["without layer.0.head.1", "layer.0@-1 from 'The dog sat'"]
    assert len(numbers["sweep"]["changes"]) == 1 and numbers["sweep"]["columns"][-1] == "feedforward"
    assert len(numbers["cut"]["candidates"]) == 4 and numbers["cut"]["stages"][0]["name"] == "Temperature 0.5"
    assert numbers["check"]["forward"] < 1e-5 and numbers["check"]["patterns"] < 1e-5
    assert numbers["model"]["type"] == "float32"


def test_the_loop_writes_what_generate_writes(inspect: Inspect, model: Path, framework: Any, tmp_path: Path) -> None:
    options = ["--seed", 5, "--max_new_tokens", 8, "--top_k", 9]
    inspect(model, PROMPT, "--json", tmp_path / "n.json", *options)
    written = json.loads((tmp_path / "n.json").read_text())["writing"]
    assert framework("generate", model, PROMPT, *options).out == f"{PROMPT}{written['text']}\n"


def test_chosen_layers(inspect: Inspect, model: Path) -> None:
    lines = inspect(model, PROMPT, "--layers", 0)
    assert "layer 0, head 1" in lines and not any(line.startswith("layer 0, head") for line in inspect(model, PROMPT))


def test_a_tokenizer_alone(inspect: Inspect, place: Path, model: Path, tmp_path: Path) -> None:
    for directory in (place / "shards" / "tokenizer", model, model / "model", model / "model" / "tokenizer.json"):
        lines = inspect(directory, "a é", "--tokenizer_only", "true", "--json", tmp_path / "n.json", "--html", tmp_path / "p.html")
        assert lines[:4] == ["4 tokens, 3 characters, 4 bytes", "a| |\\xc3|\\xa9", lines[2], "decoded, the text comes back"]
        assert lines[2].startswith("Byte: 260 ids, special: ")
        assert json.loads((tmp_path / "n.json").read_text())["prompt"] == "a é"


def test_quantised(inspect: Inspect, model: Path) -> None:
    assert any("class Quantized" in line for line in inspect(model, PROMPT, "--quantize", "int8"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ablate", "layer.7"], "layer.7 names layer 7; there are 1, numbered from 0"),
        (["--ablate", "head.1"], "'head.1' names no part"),
        (["--layers", "3"], "layers names 3; there are 1"),
        (["--patch", "layer.0"], "--patch names the parts and --patch_from the prompt they are from: give both"),
        (["--patch_from", "abc"], "give both"),
        (["--patch", "layer.0", "--patch_from", "abc"], "the prompt has 11 tokens and the one to patch from 3"),
        (["--top", "0"], "top is 0 and must be at least 1"),
        (["--top_p", "7"], "top_p"),
        (["--json_schema", "{}"], "framework inspect has no option --json_schema"),
        (["--tokenizer_only", "true", "--ablate", "layer.0"], "--tokenizer_only shows no network: leave out --ablate"),
    ],
)
def test_mistakes(model: Path, words: list[str], said: str) -> None:
    assert said in refused(model, PROMPT, *words)


def test_a_prompt_that_is_too_long_and_a_place_that_is_not_there(model: Path) -> None:
    assert "the network's context is 16" in refused(model, "x" * 40)
    assert "no directory" in refused("nowhere", PROMPT)
