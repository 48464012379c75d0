"""What samplers leave and how a reply comes about, against the batched samplers and against forwards without any cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from framework.engine.engine import Engine
from framework.generation import Generator, Settings
from framework.inspection.forward.sampling import cut, write
from framework.inspection.forward.trace import trace
from framework.networks.base import Network
from framework.networks.digest import hexadecimal, sha256
from framework.networks.transformer import Transformer
from framework.samplers.base import History
from framework.samplers.chains import Chains
from framework.samplers.selection import Greedy
from framework.tokenizers.byte import Byte

PROMPT = "the cat sat on the"
ALL = Settings(temperature=0.7, top_k=40, top_p=0.9, min_p=0.01, repetition_penalty=1.3, logit_bias={101: 3.0})


@pytest.mark.parametrize("settings", [Settings(), ALL, Settings(temperature=0.0), Settings(top_k=3), Settings(samplers=[Greedy()])])
def test_the_cut_is_what_the_engine_draws_from(generator: Generator, settings: Settings) -> None:
    request, _ = generator.prepare(PROMPT, settings)
    logits_V = trace(generator.engine.network, request.prompt_ids).logits_TV[-1, : generator.vocab_size]
    found = cut(logits_V, request, generator.vocab_size)
    ids = [each.token_id for each in found.candidates]
    assert ids == sorted(range(generator.vocab_size), key=lambda token: (-float(logits_V[token]), token))
    before_V = logits_V.double().softmax(-1)
    history = History(torch.tensor([list(request.prompt_ids)]), torch.tensor([len(request.prompt_ids)]))
    after_V = Chains([request.samplers])(logits_V[None], lambda: history).dense()[0].double().softmax(-1)
    for each in found.candidates:
        assert each.logit == pytest.approx(float(logits_V[each.token_id]))
        assert each.before == pytest.approx(float(before_V[each.token_id]), rel=1e-4)
        assert each.after == pytest.approx(float(after_V[each.token_id]), rel=1e-4, abs=1e-12)
    left = sum(each.after > 0 for each in found.candidates)
    assert (found.stages[-1].num_left if found.stages else generator.vocab_size) == left


def test_stages_say_what_each_sampler_left(generator: Generator) -> None:
    request, _ = generator.prepare(PROMPT, Settings(temperature=0.5, top_k=7, min_p=1.0))
    logits_V = trace(generator.engine.network, request.prompt_ids).logits_TV[-1, : generator.vocab_size]
    found = cut(logits_V, request, 3)
    size = generator.vocab_size
    assert [tuple(stage) for stage in found.stages] == [("Temperature 0.5", size), ("TopK 7", 7), ("MinP 1", 1)]
    assert len(found.candidates) == 3 and [each.after for each in found.candidates] == [1.0, 0.0, 0.0]


def test_the_loop_draws_from_what_a_forward_says(generator: Generator) -> None:
    """Each step's probability, from a whole forward without a cache over all tokens before it."""
    settings = Settings(temperature=0.8, top_k=20, seed=3, max_new_tokens=24, ignore_eos=True)
    request, _ = generator.prepare(PROMPT, settings)
    network, prompt = generator.engine.network, list(request.prompt_ids)
    found = write(generator.engine, request, 4)
    tokens = [step.token_id for step in found.steps]
    assert len(tokens) == 24 and [step.finish_reason for step in found.steps] == [None] * 23 + ["length"]
    events = Engine(network, vocab_size=generator.vocab_size).stream(request)
    assert tokens == [event.token_id for event in events]
    for number, step in enumerate(found.steps):
        before = prompt + tokens[:number]
        with torch.no_grad():
            logits_V = network.logits(network(torch.tensor([before])))[0, -1, : generator.vocab_size]
        after = cut(logits_V, replace(request, prompt_ids=before), 4).candidates
        assert [token for token, _ in step.top] == [each.token_id for each in after]
        for (_, logprob), each in zip(step.top, after):
            assert torch.tensor(logprob).exp() == pytest.approx(each.after, rel=1e-3)
        if step.token_id in dict(step.top):
            assert step.probability == pytest.approx(float(torch.tensor(dict(step.top)[step.token_id]).exp()))


def test_the_cache_grows_block_by_block_and_is_given_back(generator: Generator, llama: Transformer) -> None:
    request, _ = generator.prepare(PROMPT, Settings(max_new_tokens=20, seed=0, ignore_eos=True))
    found, num_prompt = write(generator.engine, request, 1), len(request.prompt_ids)
    assert [step.num_tokens for step in found.steps] == list(range(num_prompt, num_prompt + 20))
    blocks = [-(-step.num_tokens // 16) for step in found.steps]
    assert [step.cache_blocks for step in found.steps] == [*blocks[:-1], 0] and blocks[0] == 2 and blocks[-1] == 3
    shape = llama.shape
    assert found.block_tokens == 16
    assert found.block_bytes == 2 * shape.num_layers * 16 * shape.kv_heads * shape.query_width * 4


def test_a_stop_id_ends_the_loop(generator: Generator) -> None:
    request, _ = generator.prepare(PROMPT, Settings(temperature=0.0, max_new_tokens=5))
    first = write(generator.engine, request, 1).steps[0].token_id
    stopped = write(generator.engine, replace(request, stop_ids=[first]), 1).steps
    assert [step.finish_reason for step in stopped] == ["stop"] and stopped[0].probability == 1.0


def test_the_fingerprint_is_of_every_number(generator: Generator, llama: Transformer) -> None:
    request, _ = generator.prepare(PROMPT, Settings(max_new_tokens=2))
    found = write(generator.engine, request, 1)
    assert found.weights_before == found.weights_after == hexadecimal(sha256(llama)) and len(found.weights_before) == 64
    llama.norm.weight[3] += 1e-3
    assert hexadecimal(sha256(llama)) != found.weights_before


def test_a_network_without_a_cache(averages: Network) -> None:
    engine = Engine(averages, max_running=1)
    request, _ = Generator(engine, Byte()).prepare("ab", Settings(max_new_tokens=3, seed=0, ignore_eos=True))
    found = write(engine, request, 2)
    assert found.block_bytes == 0 and len(found.steps) == 3


def test_what_the_engine_raises_comes_through(generator: Generator, llama: Transformer) -> None:
    request, _ = generator.prepare(PROMPT, Settings(max_new_tokens=2))
    llama.norm.weight[0] = torch.nan
    with pytest.raises(Exception, match="not finite"):
        write(generator.engine, request, 1)
