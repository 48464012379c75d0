"""Prompts in, text out, through the real engine: streams, stop strings, several replies, batches, defaults, directories."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from framework.chat import ChatTemplate, Message
from framework.engine.request import Request
from framework.errors import CheckpointError, RequestError
from framework.generation import Chunk, Generator, Settings
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.samplers.base import History, Sampler
from framework.samplers.chain import SamplingOptions
from framework.tokenizers.byte import Byte

CONTEXT_LENGTH = 64
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant{{ '\n' }}"


def small_network(vocab_size: int = Byte().vocab_size) -> Transformer:
    torch.manual_seed(0)
    return Transformer(NetworkShape(num_layers=1, width=16, num_heads=2), vocab_size, CONTEXT_LENGTH).double().eval()


@pytest.fixture(scope="module")
def generator() -> Generator:
    """An untrained network over bytes: its text is noise, with many a broken character."""
    return Generator(small_network(), Byte(), template=ChatTemplate(TEMPLATE))


class Script(Sampler):
    """Writes given ids, whatever the network says."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        num_drawn = (history.tokens_BL >= 0).sum(dim=1) - history.prompt_lengths_B
        drawn_B = torch.tensor(self.ids)[num_drawn.clamp(max=len(self.ids) - 1)]
        return torch.full_like(logits_BV, -torch.inf).scatter(1, drawn_B.unsqueeze(1), 0.0)


class Broken(Sampler):
    """Fails at the first draw."""

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        raise RuntimeError("a broken sampler")


def text_of(chunks: list[Chunk], index: int = 0) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.index == index)


def test_the_stream_is_the_decoded_ids(generator: Generator) -> None:
    """Random bytes: broken characters become U+FFFD exactly where decoding everything at once has them."""
    special = set(generator.tokenizer.special_tokens.values())
    for seed in range(5):
        chunks = list(generator.stream("é", seed=seed, max_new_tokens=50))
        request = Request(generator.tokenizer.encode_prompt("é"), max_new_tokens=50, stop_ids=generator.stop_ids, seed=seed)
        ids = [event.token_id for event in generator.engine.stream(request)]
        assert text_of(chunks) == generator.tokenizer.decode([token for token in ids if token not in special])
        assert [token.token_id for chunk in chunks for token in chunk.tokens] == [i for i in ids if i not in generator.stop_ids]
        assert chunks[-1].finish_reason in ("stop", "length")


def test_stop_strings_cut_from_a_known_reply(generator: Generator) -> None:
    """At every offset and several lengths: nothing of the stop string, everything before it."""
    reply = generator.generate("x", seed=3, max_new_tokens=40)
    assert len(reply) > 20
    for start, length in itertools.product(range(len(reply) - 6), (1, 3, 6)):
        stop = reply[start : start + length]
        chunks = list(generator.stream("x", seed=3, max_new_tokens=40, stop=[stop, "never there"]))
        assert text_of(chunks) == reply[: reply.index(stop)]
        assert [chunk.finish_reason for chunk in chunks[-1:]] == ["stop"] and all(chunk.finish_reason is None for chunk in chunks[:-1])
    assert generator.engine.num_active == 0
    kept = generator.generate("x", seed=3, max_new_tokens=40, stop=[reply[9:12]], include_stop=True)
    assert kept == reply[: reply.index(reply[9:12]) + 3]


def test_what_only_began_a_stop_string_is_given_out_at_the_end(generator: Generator) -> None:
    reply = generator.generate("x", seed=3, max_new_tokens=40, ignore_eos=True)
    chunks = list(generator.stream("x", seed=3, max_new_tokens=40, stop=[reply[-3:] + "never there"], ignore_eos=True))
    assert text_of(chunks) == reply and chunks[-1].finish_reason == "length"


def test_what_ends_a_reply(generator: Generator) -> None:
    """The end of text, the end of a turn, an id of the caller's; none of them if they are to be passed over."""
    eos, turn = generator.tokenizer.eos_id, generator.tokenizer.special_tokens["<|im_end|>"]
    assert generator.stop_ids == {eos, turn}
    for end in (eos, turn):
        chunks = list(generator.stream("x", samplers=[Script([*b"yyy", end])], logprobs=1))
        assert (text_of(chunks), chunks[-1].finish_reason) == ("yyy", "stop")
        passed_over = list(generator.stream("x", samplers=[Script([ord("y"), end])], ignore_eos=True, max_new_tokens=5))
        assert (text_of(passed_over), passed_over[-1].finish_reason) == ("y", "length")
        assert [token.token_id for chunk in passed_over for token in chunk.tokens] == [ord("y"), end, end, end, end]
    assert generator.generate("x", samplers=[Script([*b"yz"])], stop_ids=[ord("z")], ignore_eos=True) == "y"


def test_fewest_tokens_hold_off_every_end(generator: Generator) -> None:
    chunks = list(generator.stream("x", seed=1, max_new_tokens=30, min_new_tokens=30, logit_bias=dict.fromkeys(generator.stop_ids, 100.0)))
    assert sum(len(chunk.tokens) for chunk in chunks) == 30 and chunks[-1].finish_reason == "length"
    biased = list(generator.stream("x", seed=1, max_new_tokens=30, min_new_tokens=7, logit_bias=dict.fromkeys(generator.stop_ids, 100.0)))
    assert sum(len(chunk.tokens) for chunk in biased) == 7 and biased[-1].finish_reason == "stop"


def test_several_replies_are_those_of_the_seeds_that_follow(generator: Generator) -> None:
    alone = [generator.generate("ab", seed=5 + index, max_new_tokens=20) for index in range(3)]
    chunks = list(generator.stream("ab", seed=5, n=3, max_new_tokens=20))
    assert [text_of(chunks, index) for index in range(3)] == alone and len(set(alone)) == 3
    stop = alone[1][4:6]
    chunks = list(generator.stream("ab", seed=5, n=3, max_new_tokens=20, stop=[stop]))
    assert [text_of(chunks, index) for index in range(3)] == [reply.partition(stop)[0] for reply in alone]
    assert sorted(chunk.index for chunk in chunks if chunk.finish_reason) == [0, 1, 2] and generator.engine.num_active == 0


def test_a_reply_that_has_come_to_a_stop_string_is_not_gone_on_with(generator: Generator) -> None:
    before = generator.engine.statistics.generated_tokens
    chunks = list(generator.stream("x", seed=1, n=8, choices=["Xyyyyyyyy", "Yyyyyyyyy"], stop=["Y"], temperature=100.0))
    stopped = [chunk.index for chunk in chunks if chunk.finish_reason and not text_of(chunks, chunk.index)]
    assert 0 < len(stopped) < 8
    assert generator.engine.statistics.generated_tokens - before == len(stopped) + 10 * (8 - len(stopped)), "the stop id is a token too"


def test_log_probabilities(generator: Generator) -> None:
    chunks = list(generator.stream("abc", seed=1, max_new_tokens=6, logprobs=2, prompt_logprobs=1, ignore_eos=True))
    tokens = [token for chunk in chunks for token in chunk.tokens]
    assert len(tokens) == 6 and all(token.logprob is not None and token.logprob < 0 and len(token.top) == 2 for token in tokens)
    ids = [*b"abc", *(token.token_id for token in tokens)]
    network = generator.engine.network
    with torch.inference_mode():
        logprobs_TV = network.logits(network(torch.tensor([ids])))[0].log_softmax(-1)
    assert [token.logprob for token in tokens] == pytest.approx(
        [logprobs_TV[place + 2, ids[place + 3]].item() for place in range(6)], abs=1e-9
    )
    assert chunks[0].prompt_logprobs is not None
    theirs = [logprobs_TV[place, ids[place + 1]].item() for place in range(2)]
    assert [score for score, _ in chunks[0].prompt_logprobs] == pytest.approx(theirs, abs=1e-9)
    assert all(token.logprob is None for chunk in generator.stream("abc", seed=1, max_new_tokens=3) for token in chunk.tokens)


def test_an_empty_prompt_begins_a_document_and_ids_are_taken_as_they_are(generator: Generator) -> None:
    assert generator.generate("", seed=1, max_new_tokens=9) == generator.generate([generator.tokenizer.eos_id], seed=1, max_new_tokens=9)
    assert generator.generate("ab", seed=1, max_new_tokens=9) == generator.generate([*b"ab"], seed=1, max_new_tokens=9)


def test_defaults_of_the_model_and_settings_over_them() -> None:
    eos = Byte().eos_id
    model = Generator(small_network(), Byte(), {"do_sample": False, "max_new_tokens": 7, "eos_token_id": [eos, 0]})
    assert model.generate("a", seed=1) == model.generate("a", seed=2) and model.stop_ids == {eos, 0}
    assert len({model.generate("a", Settings(temperature=1.0), seed=seed) for seed in range(4)}) > 1
    assert sum(len(chunk.tokens) for chunk in model.stream("a", Settings(max_new_tokens=5), max_new_tokens=3, ignore_eos=True)) == 3
    assert (model.context_length, model.vocab_size, model.defaults) == (CONTEXT_LENGTH, 260, SamplingOptions(temperature=0.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop": [""]}, "stop string is empty"),
        ({"temperature": -1.0}, "temperature"),
        ({"logit_bias": {260: 1.0}}, "logit_bias names token 260.* 260"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias names token -1"),
        ({"logprobs": 261}, "logprobs is 261"),
        ({"n": 0}, "n is 0"),
        ({"seed": -1}, "seed"),
        ({"min_new_tokens": 9, "max_new_tokens": 5}, "min_new_tokens is 9"),
        ({"stop_ids": [9999]}, "token 9999"),
        ({"choices": ["a"], "regex": "a"}, "choices and regex cannot go together"),
        ({"choices": ["a"], "ignore_eos": True}, "no way to end"),
        ({"choices": []}, "choices is empty"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(generator: Generator, changes: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        generator.stream("x", **changes)
    assert generator.engine.num_active == 0


def test_a_prompt_that_leaves_no_room(generator: Generator) -> None:
    with pytest.raises(RequestError, match="shorten the prompt to at most 63"):
        generator.stream("x" * 64)
    with pytest.raises(RequestError, match="token 260 is not in the network's vocabulary"):
        generator.prepare([260], Settings())


def test_a_stream_that_is_closed_costs_nothing_more(generator: Generator) -> None:
    generator.stream("x", max_new_tokens=20)  # never begun
    begun = generator.stream("x", max_new_tokens=20, ignore_eos=True)
    next(begun)
    assert generator.engine.num_active == 1
    begun.close()
    assert generator.engine.num_active == 0


def test_a_request_that_fails_raises_in_its_own_stream(generator: Generator) -> None:
    other = generator.stream("x", seed=2, max_new_tokens=9)
    first = next(other)
    with pytest.raises(RuntimeError, match="a broken sampler"):
        generator.generate("y", samplers=[Broken()])
    assert first.text + "".join(chunk.text for chunk in other) == generator.generate("x", seed=2, max_new_tokens=9)


def test_a_chat_is_its_rendered_prompt(generator: Generator) -> None:
    messages = [Message("user", "hi")]
    prompt = generator.render(messages)
    assert generator.tokenizer.decode(prompt) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert text_of(list(generator.chat(messages, seed=1, max_new_tokens=9))) == generator.generate(prompt, seed=1, max_new_tokens=9)
    with pytest.raises(RequestError, match="no chat template"):
        Generator(generator.engine, generator.tokenizer).chat(messages)


def test_choices_bind_the_reply(generator: Generator) -> None:
    answers = ["yes", "yes sir", "no, never", "naïve"]
    replies = {generator.generate("?", seed=seed, choices=answers) for seed in range(40)}
    assert replies <= set(answers) and len(replies) > 2


# batches


def test_a_batch_is_its_prompts_alone(generator: Generator) -> None:
    """Whatever the order in which they finish; reply j of prompt i draws with seed + i * n + j."""
    prompts = ["a", "bc", "", [100, 101], "a"]
    settings = Settings(seed=10, n=2, max_new_tokens=12, stop=["a", "\n"])
    batch = dict(generator.batch(iter(prompts), settings))
    assert sorted(batch) == [0, 1, 2, 3, 4]
    for number, prompt in enumerate(prompts):
        alone = [generator.generate(prompt, settings, n=1, seed=10 + 2 * number + index) for index in range(2)]
        assert batch[number] == alone
    assert batch[0] != batch[4] and generator.engine.num_active == 0


def test_what_cannot_be_served_stops_no_other(generator: Generator) -> None:
    batch = dict(generator.batch(["ab", "x" * 64, "cd", [999]], seed=1, max_new_tokens=8))
    assert isinstance(batch[1], RequestError) and "shorten" in str(batch[1])
    assert isinstance(batch[3], RequestError) and "vocabulary" in str(batch[3])
    assert batch[2] == [generator.generate("cd", seed=3, max_new_tokens=8)] and isinstance(batch[0], list)
    broken = dict(generator.batch(["ab", "cd"], samplers=[Broken()]))
    assert [str(broken[number]) for number in range(2)] == ["a broken sampler"] * 2


def test_prompts_are_taken_as_room_comes_up(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framework.generation.replies.OPEN_PROMPTS", 3)
    taken: list[int] = []

    def endless() -> Iterator[str]:
        for number in itertools.count():
            taken.append(number)
            yield "a"

    batch = generator.batch(endless(), seed=0, max_new_tokens=4, ignore_eos=True)
    finished = [next(batch)[0] for _ in range(7)]
    assert sorted(finished) == list(range(7)) and len(taken) <= 7 + 3
    batch.close()  # type: ignore[attr-defined]
    assert generator.engine.num_active == 0


# directories


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, generator: Generator) -> Path:
    """A run directory whose model has defaults of its own, and a chat template."""
    from framework.checkpoint import save

    directory = tmp_path_factory.mktemp("runs") / "tiny"
    directory.mkdir()
    save(directory / "model", generator.engine.network, generator.tokenizer, {}, {"temperature": 0.5, "max_new_tokens": 6})
    (directory / "model" / "chat_template.jinja").write_text(TEMPLATE)
    return directory


def test_a_run_or_a_model_directory(run: Path) -> None:
    texts = [Generator.load(place).generate("a", seed=0) for place in (run, run / "model")]
    assert texts[0] == texts[1]
    with pytest.raises(CheckpointError, match=r"runs\S* is no model directory"):
        Generator.load(run.parent)


def test_loading(run: Path, generator: Generator) -> None:
    loaded = Generator.load(run, max_running=2)
    assert loaded.defaults == SamplingOptions(temperature=0.5) and loaded.max_new_tokens == 6
    expected = generator.generate("ab", temperature=0.5, seed=1, max_new_tokens=6)
    assert loaded.generate("ab", seed=1) == expected
    assert loaded.render([Message("user", "hi")]) == generator.render([Message("user", "hi")])
    assert {weight.dtype for weight in Generator.load(run, dtype="bfloat16").engine.network.parameters()} == {torch.bfloat16}


def test_a_damaged_generation_config(run: Path, tmp_path: Path) -> None:
    import shutil

    model = Path(shutil.copytree(run / "model", tmp_path / "model"))
    (model / "framework.json").unlink()  # which would notice by itself
    for damaged in ("{", '{"max_new_tokens": "many"}', '{"eos_token_id": "end"}'):
        (model / "generation_config.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"generation_config\.json"):
            Generator.load(model)


def test_the_public_name() -> None:
    import framework

    assert framework.Generator is Generator
