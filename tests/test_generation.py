"""Text in, text out: streams equal wholes, stop strings never leak, defaults of the model, and directories that are none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.errors import CheckpointError, RequestError
from framework.generation import Chunk, Generator, StopStrings, model_directory
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.samplers.chain import SamplingOptions
from framework.samplers.selection import Greedy
from framework.tokenizers.byte import Byte

CONTEXT_LENGTH = 64


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny networks gain nothing from threads, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def generator() -> Generator:
    """An untrained network over bytes: its text is noise, with many a broken character."""
    torch.manual_seed(0)
    tokenizer = Byte()
    shape = NetworkShape(num_layers=1, width=16, num_heads=2)
    return Generator(Transformer(shape, tokenizer.vocab_size, CONTEXT_LENGTH).double().eval(), tokenizer)


def _text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def _first_stop(text: str, stops: list[str]) -> str:
    """Plain and slow: the text before the stop string that is complete first, the longest of those that end together."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("ab\n", max_size=30),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_stop_strings_do_not_depend_on_the_pieces(text: str, stops: list[str], cuts: list[int]) -> None:
    filtered = StopStrings(stops)
    out = ""
    for start, end in itertools.pairwise([0, *sorted(cuts), len(text)]):
        out += filtered.push(text[start:end])
        assert _first_stop(text, stops).startswith(out)
        if filtered.found:
            break
        # no over-withholding: what is held can still become a stop string
        held = text[:end][len(out) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)
    assert out + filtered.flush() == _first_stop(text, stops)
    assert filtered.found == (_first_stop(text, stops) != text or any(stop in text for stop in stops))


def test_stop_strings_cut_from_a_known_reply(generator: Generator) -> None:
    """At every offset and several lengths: nothing of the stop string, everything before it."""
    reply = generator.generate("x", seed=3, max_new_tokens=40)
    assert len(reply) > 20
    for start, length in itertools.product(range(0, len(reply) - 6, 2), (1, 3, 6)):
        stop = reply[start : start + length]
        chunks = list(generator.stream("x", seed=3, max_new_tokens=40, stop=[stop, "never there"]))
        assert _text(chunks) == reply[: reply.index(stop)]
        assert [chunk.finish_reason for chunk in chunks[-1:]] == ["stop"] and all(chunk.finish_reason is None for chunk in chunks[:-1])
    assert generator.engine.num_active == 0


def test_what_only_began_a_stop_string_is_given_out_at_the_end(generator: Generator) -> None:
    reply = generator.generate("x", seed=3, max_new_tokens=40)
    chunks = list(generator.stream("x", seed=3, max_new_tokens=40, stop=[reply[-3:] + "never there"]))
    assert _text(chunks) == reply
    assert chunks[-1].finish_reason == "length"


def test_the_stream_is_the_decoded_ids(generator: Generator) -> None:
    """Random bytes: broken characters become U+FFFD exactly where decoding everything at once has them."""
    from framework.engine.request import Request

    for seed in range(5):
        chunks = list(generator.stream("é", seed=seed, max_new_tokens=50))
        request = Request(generator.tokenizer.encode_prompt("é"), max_new_tokens=50, stop_ids=generator.stop_ids, seed=seed)
        ids = [event.token_id for event in generator.engine.stream(request) if event.token_id not in generator.stop_ids]
        assert _text(chunks) == generator.tokenizer.decode(ids)
        assert chunks[-1].finish_reason in ("stop", "length")


def test_the_end_of_text_id_ends_the_reply_and_is_no_text(generator: Generator) -> None:
    class Ending(Greedy):
        def __call__(self, logits_BV, history):  # type: ignore[no-untyped-def]
            count = int((history.tokens_BL >= 0).sum())
            token = ord("y") if count < 4 else generator.tokenizer.eos_id
            return torch.full_like(logits_BV, -torch.inf).index_fill(-1, torch.tensor([token]), 0.0)

    chunks = list(generator.stream("x", samplers=[Ending()]))
    assert (_text(chunks), chunks[-1].finish_reason) == ("yyy", "stop")


def test_an_empty_prompt_begins_a_document(generator: Generator) -> None:
    from framework.engine.request import Request

    eos = generator.tokenizer.eos_id
    ids = [e.token_id for e in generator.engine.stream(Request([eos], max_new_tokens=5, seed=1)) if e.token_id != eos]
    assert generator.generate("", seed=1, max_new_tokens=5) == generator.tokenizer.decode(ids)


def test_defaults_of_the_model_and_options_over_them() -> None:
    tokenizer = Byte()
    network = Transformer(NetworkShape(num_layers=1, width=8, num_heads=2), tokenizer.vocab_size, CONTEXT_LENGTH).eval()
    model = Generator(network, tokenizer, {"do_sample": False, "max_new_tokens": 7, "eos_token_id": [tokenizer.eos_id, 0]})
    assert model.generate("a", seed=1) == model.generate("a", seed=2) and model.stop_ids == {tokenizer.eos_id, 0}
    assert len({model.generate("a", SamplingOptions(temperature=1.0), seed=seed) for seed in range(4)}) > 1
    assert sum(1 for _ in model.stream("a", max_new_tokens=3)) <= 3


def test_errors_come_before_the_first_piece(generator: Generator) -> None:
    with pytest.raises(RequestError, match="stop string is empty"):
        generator.stream("x", stop=[""])
    with pytest.raises(RequestError, match="temperature"):
        generator.stream("x", SamplingOptions(temperature=-1.0))
    with pytest.raises(RequestError, match="shorten the prompt to at most 63"):
        generator.stream("x" * 64)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, generator: Generator) -> Path:
    """A run directory whose model has defaults of its own."""
    from framework.checkpoint import save

    directory = tmp_path_factory.mktemp("runs") / "tiny"
    directory.mkdir()
    save(directory / "model", generator.engine.network, generator.tokenizer, {}, {"temperature": 0.5, "max_new_tokens": 6})
    return directory


def test_a_run_or_a_model_directory(run: Path) -> None:
    assert model_directory(run) == model_directory(run / "model") == run / "model"
    with pytest.raises(CheckpointError, match=r"no directory .*tinny; did you mean .*tiny\?"):
        model_directory(run.parent / "tinny")
    with pytest.raises(CheckpointError, match="give a run or model directory"):
        model_directory(run / "nowhere" / "at" / "all")
    with pytest.raises(CheckpointError, match=r"no model directory .*runs.*/model"):
        Generator.load(run.parent)


def test_loading(run: Path, generator: Generator) -> None:
    loaded = Generator.load(run)
    assert loaded.defaults == SamplingOptions(temperature=0.5) and loaded.max_new_tokens == 6
    expected = generator.generate("ab", SamplingOptions(temperature=0.5), seed=1, max_new_tokens=6)
    assert loaded.generate("ab", seed=1) == expected
