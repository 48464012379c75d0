"""The numbers that are shown, recomputed from the formulas; the page holds the very numbers of the JSON; the terminal says the same."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from framework.generation import Generator, Settings
from framework.inspection.forward.experiments import ablate, every_part
from framework.inspection.forward.facts import Account, tokenization
from framework.inspection.forward.page import forward_page
from framework.inspection.forward.sampling import cut, write
from framework.inspection.forward.terminal import ForwardText
from framework.inspection.forward.trace import blocks_of, lens, trace
from framework.networks.base import Network
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte

PROMPT = "the <b> cat\n"
IDS = list(PROMPT.encode())
Numbers = dict[str, Any]


def numbers_of(generator: Generator, prompt: str = PROMPT, chosen: tuple[int, ...] = (), experiments: bool = True) -> Numbers:
    """Everything there is to show, as the command puts it together."""
    request, _ = generator.prepare(prompt, Settings(top_k=5, seed=0, max_new_tokens=6))
    network, ids = generator.engine.network, list(request.prompt_ids)
    account = Account(generator, observed := trace(network, ids), num_top=8)
    numbers = account.forward(prompt, chosen)
    numbers["cut"] = account.cut(cut(observed.logits_TV[-1, : generator.vocab_size], request, 8))
    if experiments:
        parts = every_part(network)
        numbers["experiments"] = [account.experiment("without layer.0.head.1", ablate(network, ids, [parts[0][1]]))]
        numbers["sweep"] = account.sweep(parts, (ablate(network, ids, [part]) for row in parts for part in row))
    numbers["writing"] = account.written(write(generator.engine, request, 3), request)
    return numbers | {"texts": account.texts()}


def near(found: Any, expected: Tensor, rounding: float = 1e-3) -> None:
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected.double(), rtol=rounding, atol=6e-4)


def test_tokens(generator: Generator) -> None:
    tokens = numbers_of(generator)["tokens"]
    assert [token["id"] for token in tokens] == IDS and [token["position"] for token in tokens] == list(range(len(IDS)))
    assert b"".join(bytes.fromhex(token["bytes"]) for token in tokens) == PROMPT.encode()
    assert "".join(token["text"] for token in tokens) == PROMPT and not any(token["special"] for token in tokens)


def test_layers_and_streams(generator: Generator, llama: Transformer) -> None:
    numbers, found = numbers_of(generator), trace(llama, IDS)
    assert len(numbers["residual"]) == len(found.layers) + 1
    near(numbers["residual"][0], found.layers[0].before_TD.norm(dim=-1))
    near(numbers["embedding"]["token"], llama.embedding.weight[IDS].norm(dim=-1))
    assert numbers["embedding"]["position"] is None and numbers["embedding"]["tables"] == ["embedding.weight [264, 32]"]
    for shown, layer, stream in zip(numbers["layers"], found.layers, numbers["residual"][1:], strict=True):
        near(stream, layer.after_TD.norm(dim=-1))
        near(shown["attention_adds"], (layer.middle_TD - layer.before_TD).norm(dim=-1))
        near(shown["attention"], layer.attention_TD.norm(dim=-1))
        near(shown["middle"], layer.middle_TD.norm(dim=-1))
        near(shown["feedforward_adds"], (layer.after_TD - layer.middle_TD).norm(dim=-1))
        near(shown["feedforward"], layer.feedforward_TD.norm(dim=-1))
        for kind, heads_THQ in (("query", layer.queries_THQ), ("key", layer.keys_TKQ), ("value", layer.values_TKQ)):
            near(shown["norms"][kind], heads_THQ.norm(dim=-1).T)
            torch.testing.assert_close(torch.tensor(shown["vectors"][kind]), heads_THQ.transpose(0, 1), rtol=6e-3, atol=1e-6)
        near(shown["read"], layer.mixed_THQ.norm(dim=-1).T)
        for head, rows in enumerate(shown["patterns"]):
            for token, row in enumerate(rows):
                near(row, layer.pattern_HTS[head, token, : token + 1])
            place, most = shown["most"][head]
            assert place == int(layer.pattern_HTS[head, -1].argmax()) and most == pytest.approx(max(rows[-1]), abs=6e-4)


def test_zeros_under_relu() -> None:
    torch.manual_seed(0)
    network = Transformer(NetworkShape(1, 32, 4, feedforward="relu"), 260, 32).eval().requires_grad_(False)
    shown = numbers_of(Generator(network, Byte()))["layers"][0]
    block, before_TD = blocks_of(network)[0], trace(network, IDS).layers[0].middle_TD
    up_TF = block.feedforward.up(block.feedforward_norm(before_TD))
    assert shown["zeros"] == (up_TF <= 0).sum(-1).tolist() and shown["inner_width"] == 128 and 30 < shown["zeros"][0] < 100
    bent_TF = up_TF.clamp_min(0)
    near(shown["near_zero"], (bent_TF < 0.01 * bent_TF.amax(-1, keepdim=True)).double().mean(-1))


def test_lens_and_candidates(generator: Generator, llama: Transformer) -> None:
    numbers, found = numbers_of(generator), trace(llama, IDS)
    size = generator.vocab_size
    assert size == 260 and llama.vocab_size == 264  # ids that only the network knows are never drawn, and not shown
    streams = [found.layers[0].before_TD, *(layer.after_TD for layer in found.layers)]
    ends_T = found.logits_TV[:, :size].argmax(-1)
    for reading, stream_TD in zip(numbers["lens"], streams, strict=True):
        probabilities_TV = lens(llama, stream_TD)[:, :size].double().softmax(-1)
        near([place["final"] for place in reading], probabilities_TV.gather(-1, ends_T[:, None])[:, 0])
        for place, probabilities_V in zip(reading, probabilities_TV, strict=True):
            expected = probabilities_V.topk(3)
            assert [token for token, _ in place["top"]] == expected.indices.tolist()
            near([value for _, value in place["top"]], expected.values)
    last = numbers["lens"][-1][-1]["top"]
    assert [token for token, _ in last] == [each["id"] for each in numbers["cut"]["candidates"][:3]]
    assert [value for _, value in last] == pytest.approx([each["before"] for each in numbers["cut"]["candidates"][:3]], rel=2e-3)
    assert numbers["cut"]["stages"] == [{"name": "TopK 5", "num_left": 5}]


def test_experiments_and_sweep(generator: Generator, llama: Transformer) -> None:
    numbers = numbers_of(generator)
    (shown,), sweep = numbers["experiments"], numbers["sweep"]
    before_V = trace(llama, IDS).logits_TV[-1, :260].double().log_softmax(-1)
    parts = every_part(llama)
    target = int(before_V.argmax())
    after_V = ablate(llama, IDS, [parts[0][1]])[:260].double().log_softmax(-1)
    assert shown["target"] == sweep["target"] == target
    near([shown["logprob_before"], shown["logprob_after"]], torch.stack([before_V[target], after_V[target]]))
    ids = [each["id"] for each in shown["candidates"]]
    assert set(ids) == {*before_V.topk(5).indices.tolist(), *after_V.topk(5).indices.tolist()}
    near([each["before"] for each in shown["candidates"]], before_V[ids].exp())
    near([each["after"] for each in shown["candidates"]], after_V[ids].exp())
    assert sweep["columns"] == ["head 0", "head 1", "head 2", "head 3", "attention", "feedforward"]
    for row, changes in zip(parts, sweep["changes"], strict=True):
        expected = [ablate(llama, IDS, [part])[:260].double().log_softmax(-1)[target] - before_V[target] for part in row]
        near(changes, torch.stack(expected), 2e-3)


class Reading(HTMLParser):
    """What a page holds: its embedded numbers, its visible text, its script."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []
        self.numbers = self.text = self.script = ""

    def handle_starttag(self, tag: str, attributes: list[Any]) -> None:
        if tag in ("script", "style"):
            self.inside.append("numbers" if dict(attributes).get("type") == "application/json" else tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        where = self.inside[-1] if self.inside else "text"
        if where != "style":
            setattr(self, where, getattr(self, where) + data)


def test_the_page_holds_the_numbers_and_stands_alone(generator: Generator) -> None:
    numbers = numbers_of(generator)
    page = forward_page(numbers)
    reading = Reading()
    reading.feed(page)
    assert json.loads(reading.numbers) == json.loads(json.dumps(numbers))
    assert "http" not in page and "src=" not in page and "<b>" not in page.split("<script")[0].replace("<b>layer", "")
    assert "&lt;b&gt;" in page and "&lt;" in page.partition("</title>")[0]
    for each in numbers["cut"]["candidates"]:
        assert f"{each['before']:.2%}" in reading.text
    for step in numbers["writing"]["steps"]:
        assert f"{step['probability']:.2%}" in reading.text
    for row in numbers["sweep"]["changes"]:
        assert all(f"{value:+.3f}" in reading.text for value in row)
    for layer in numbers["layers"]:
        assert all(f"{value:g}" in reading.text for value in layer["feedforward_adds"])
    assert numbers["writing"]["weights_after"][:16] in reading.text and "unchanged" in reading.text


def test_a_browser_draws_the_patterns(generator: Generator, tmp_path: Path) -> None:
    """The script of the page, run: every cell of the open layer's first head is in the table, and each head has its picture."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium")
    numbers = numbers_of(generator)
    (tmp_path / "page.html").write_text(forward_page(numbers), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    command = [browser, *flags, (tmp_path / "page.html").as_uri()]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split('id="numbers"')[0]
    pattern = numbers["layers"][-1]["patterns"][0]
    found = re.findall(r'title="(\d+) [^"]*? takes ([\d.e-]+) from (\d+) [^"]*" style="--p: ([\d.e-]+);"', drawn)
    expected = [(str(query), weight, str(key), weight) for query, row in enumerate(pattern) for key, weight in enumerate(row)]
    assert [(query, float(weight), key, float(shade)) for query, weight, key, shade in found] == expected
    assert re.findall(r"</canvas>head (\d+)</button>", drawn) == ["0", "1", "2", "3"]
    assert "rows 0:8</code> (8 × 32)" in drawn and "rows 32:40</code> (8 × 32), shared by 2 heads" in drawn
    assert re.search(r'<canvas id="residual" width="12" height="4"', drawn)


def test_the_terminal_says_the_same(generator: Generator) -> None:
    numbers = numbers_of(generator, chosen=(1,))
    plain, coloured = ("\n".join(ForwardText(numbers, colour, [1]).lines()) for colour in (False, True))
    assert "\033" not in plain and "\033[" in coloured
    bare = re.sub(r"\033\[[\d;]*m", "", coloured).splitlines()
    assert bare[2:] == plain.splitlines()[2:]  # the second line is the text in boxes
    assert plain.splitlines()[0] == "12 tokens, 12 characters, 12 bytes"
    assert "key    W_K = blocks.1.attention.qkv.weight rows 32:40, 8 x 32" in plain and "layer 1, head 3" in plain
    assert plain.count("W_Q") == 4 and "layer 0, head 0" not in plain
    for each in numbers["cut"]["candidates"]:
        assert f"{each['before']:>8.2%}" in plain
    assert "TopK 5: 5 left" in plain and "unchanged" in plain
    for layer in numbers["layers"]:
        assert f"{layer['attention_adds'][-1]:>12.4g}" in plain


def test_layers_are_chosen_or_fit(generator: Generator) -> None:
    kept = [layer["patterns"] is not None and layer["vectors"] is not None for layer in numbers_of(generator, chosen=(0, 2))["layers"]]
    assert kept == [True, False, True]
    page = forward_page(numbers_of(generator, chosen=(0, 2)))
    assert "Patterns of layers 1 are left out" in page


def test_a_deep_network_makes_a_small_page() -> None:
    """Thirty layers of nine heads, twenty tokens: as SmolLM2-135M, but for its width."""
    torch.manual_seed(0)
    shape = NetworkShape(30, 90, 9, 3, 64, feedforward="swiglu", feedforward_width=96, norm="rms", positions="rotary")
    generator = Generator(Transformer(shape, 260, 64).eval().requires_grad_(False), Byte())
    numbers = numbers_of(generator, "the cat sat on the m", experiments=False)
    page = forward_page(numbers)
    assert all(layer["patterns"] is not None for layer in numbers["layers"])
    kept = [layer["layer"] for layer in numbers["layers"] if layer["vectors"] is not None]
    assert kept == [29] and len(page) < 1_000_000
    long = numbers_of(generator, "a" * 60, experiments=False)
    assert len(forward_page(long)) < 1_500_000 and "Patterns of layers 0, " in forward_page(long)


def test_a_long_prompt_leaves_out_what_has_no_room() -> None:
    torch.manual_seed(0)
    shape = NetworkShape(2, 32, 4, positions="rotary")
    network = Transformer(shape, 260, 400).eval().requires_grad_(False)
    numbers = numbers_of(Generator(network, Byte()), "a" * 250 + "b" * 60, experiments=False)
    assert [layer["patterns"] for layer in numbers["layers"]] == [None, None] and numbers["lens_from"] == 246
    assert all(len(reading) == 64 for reading in numbers["lens"]) and len(numbers["tokens"]) == 310
    found = trace(network, [*b"a" * 250, *b"b" * 60])
    near([place["final"] for place in numbers["lens"][-1]], found.logits_TV[246:].double().softmax(-1).amax(-1))
    page = forward_page(numbers)
    assert "Patterns of layers 0, 1 are left out" in page and "The first 286 tokens are left out here" in page
    assert "(the last 24 tokens)" in page and len(page) < 400_000
    assert "(--layers)" not in "\n".join(ForwardText(numbers, False).lines())
    kept = numbers_of(Generator(network, Byte()), "a" * 100, chosen=(1,), experiments=False)["layers"]
    assert [layer["patterns"] is not None for layer in kept] == [False, True]


def test_a_network_that_is_no_transformer(averages: Network) -> None:
    numbers = numbers_of(Generator(averages, Byte()), experiments=False)
    assert numbers["layers"] == numbers["residual"] == numbers["lens"] == [] and len(numbers["embedding"]["token"]) == len(IDS)
    for shown in (forward_page(numbers), "\n".join(ForwardText(numbers, False).lines())):
        assert "Averages is no Transformer: between embeddings and logits nothing is known of it" in shown
    assert "this network has no cache" in forward_page(numbers)


def test_tokenization() -> None:
    numbers = tokenization(Byte(), "é\t<|endoftext|>")
    assert numbers["comes_back"] and (numbers["characters"], numbers["bytes"], len(numbers["tokens"])) == (15, 16, 16)
    assert numbers["tokens"][0] == {"position": 0, "id": 0xC3, "bytes": "c3", "text": "\\xc3", "special": False}
    assert numbers["tokenizer"]["vocabulary"] == 260 and numbers["tokenizer"]["fingerprint"] == Byte().fingerprint
    lines = list(ForwardText(numbers, False).lines())
    assert lines[5].split() == ["0", "195", "c3", r"'\xc3'"] and lines[7].split()[-1] == r"'\t'"
    assert lines[0] == "16 tokens, 15 characters, 16 bytes" and "decoded, the text comes back" in lines
    reading = Reading()
    reading.feed(forward_page(numbers))
    assert json.loads(reading.numbers) == numbers and "Decoded, the text comes back" in reading.text
