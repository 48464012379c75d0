"""Beam search against transformers', and its place among other requests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from framework.checkpoint import save
from framework.engine.engine import Engine
from framework.engine.request import Event, Request
from framework.errors import RequestError
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.samplers.penalties import RepetitionPenalty
from framework.samplers.selection import Greedy
from framework.tokenizers.byte import Byte

PROMPT = [4, 200, 7]


@pytest.fixture(scope="module")
def network() -> Transformer:
    torch.manual_seed(1)
    network = Transformer(
        NetworkShape(2, 24, 2, norm_bias=True, qkv_bias=True, out_bias=True, feedforward_bias=True, feedforward="gelu_tanh"), 260, 64
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.35)
    return network.eval()


def best(engine: Engine, request: Request) -> list[list[int]]:
    events = list(engine.stream(request))
    return [[event.token_id for event in events if event.index == index] for index in range(request.n)]


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, -0.7, 2.0])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_beams_are_those_of_transformers(length_penalty: float, early_stopping: bool | str, network: Transformer, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save(tmp_path / "model", network, Byte(), {})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    engine = Engine(network)
    for num_beams, stop_ids, penalty in [(2, [11], 1.0), (4, [11, 30, 200], 1.0), (3, [5], 1.6), (4, list(range(0, 250, 5)), 1.0)]:
        expected = theirs.generate(
            torch.tensor([PROMPT]),
            attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
            num_beams=num_beams,
            num_return_sequences=2,
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=stop_ids,
            pad_token_id=259,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            repetition_penalty=penalty,
        )
        replies = [[token for token in row[len(PROMPT) :] if token != 259] for row in expected.tolist()]
        request = Request(
            PROMPT,
            max_new_tokens=12,
            num_beams=num_beams,
            n=2,
            stop_ids=stop_ids,
            length_penalty=length_penalty,
            early_stopping=early_stopping,  # type: ignore[arg-type]
            samplers=[RepetitionPenalty(penalty)],
        )
        assert best(engine, request) == replies, (num_beams, stop_ids)
    assert engine.num_active == 0 and engine.statistics.cache_tokens_used == 0


def test_a_search_is_the_same_beside_others_and_in_little_memory(network: Transformer) -> None:
    request = Request(PROMPT, max_new_tokens=30, num_beams=4, n=3, stop_ids=[11])
    other = Request([9] * 20, max_new_tokens=20, samplers=[Greedy()])
    network = network.double()
    expected, expected_other = best(Engine(network), request), best(Engine(network), other)
    for settings in ({}, {"cache_tokens": 96, "max_running": 5}, {"max_running": 4}):
        engine = Engine(network, **settings)  # type: ignore[arg-type]
        numbers = [engine.add(other), engine.add(request), engine.add(other)]
        events: list[Event] = []
        while engine.num_active:
            events += engine.step()
        found = [[e.token_id for e in events if e.request_id == numbers[1] and e.index == index] for index in range(3)]
        assert found == expected
        for number in (numbers[0], numbers[2]):
            assert [e.token_id for e in events if e.request_id == number] == expected_other[0]
        assert engine.statistics.cache_tokens_used == 0
        assert bool(engine.statistics.preemptions) == ("cache_tokens" in settings)
    network.float()


def test_a_search_can_be_cancelled_and_refused(network: Transformer) -> None:
    engine = Engine(network, max_running=4)
    request_id = engine.add(Request(PROMPT, max_new_tokens=30, num_beams=4))
    for _ in range(3):
        engine.step()
    engine.cancel(request_id)
    assert engine.num_active == 0 and engine.statistics.cache_tokens_used == 0 and engine.step() == []
    with pytest.raises(RequestError, match="max_running"):
        engine.add(Request(PROMPT, max_new_tokens=3, num_beams=5))
    for wrong in ({"num_beams": 0}, {"num_beams": 2, "n": 3}, {"num_beams": 2, "logprobs": 0}, {"num_beams": 2, "samplers": [Greedy()]}):
        with pytest.raises(RequestError, match=r"num_beams|beam search"):
            Request(PROMPT, max_new_tokens=3, **wrong)  # type: ignore[arg-type]
