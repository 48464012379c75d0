"""The engine against the slow reference, and what a request must never notice: neighbours, order, cancellations."""

from __future__ import annotations

import hashlib
import logging
import random

import pytest
import torch

from framework.engine.engine import Engine, evaluating
from framework.engine.reference import generate
from framework.engine.request import Event, Request
from framework.errors import RequestError
from framework.networks.base import Network
from framework.samplers.chain import SamplingOptions
from framework.samplers.selection import Greedy

GREEDY = (Greedy(),)


def _ids(events: list[Event]) -> list[int]:
    return [event.token_id for event in events]


def _plain(events: list[Event]) -> list[tuple[int, str | None]]:
    return [(event.token_id, event.finish_reason) for event in events]


def _hash(network: Network) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())).hexdigest()


def _requests(count: int) -> list[Request]:
    draw = random.Random(0)
    return [
        Request(
            prompt_ids=[draw.randrange(31) for _ in range(draw.randint(1, 20))],
            max_new_tokens=draw.randint(1, 15),
            samplers=SamplingOptions(
                temperature=draw.choice([0.0, 0.7, 1.5]), top_k=draw.choice([0, 5]), repetition_penalty=draw.choice([1.0, 1.4])
            ).samplers(),
            stop_ids=draw.choice([(), (3, 7)]),
            min_new_tokens=draw.randint(0, 1),
            seed=number,
        )
        for number in range(count)
    ]


def test_engine_is_the_reference(network: Network) -> None:
    """Cached, one token at a time, against the whole sequence each time, in float64: same tokens, log-probabilities within 1e-10."""
    for request in _requests(12):
        expected, seen = generate(network, request), list(Engine(network).stream(request))
        assert _plain(seen) == _plain(expected)
        assert [event.logprob for event in seen] == pytest.approx([event.logprob for event in expected], abs=1e-10)


def test_greedy_is_the_argmax_of_a_full_forward(network: Network) -> None:
    """An oracle that shares no code with the engine."""
    ids = [5, 2, 9]
    for event in Engine(network).stream(Request([5, 2, 9], max_new_tokens=10, samplers=GREEDY)):
        with torch.no_grad():
            logits = network.logits(network(torch.tensor([ids])))[0, -1]
        assert event.token_id == logits.argmax().item()
        assert event.logprob == pytest.approx(logits.log_softmax(dim=-1).max().item(), abs=1e-10)
        ids.append(event.token_id)


def test_neighbours_arrivals_and_cancellations_change_nothing(network: Network) -> None:
    engine, draw = Engine(network), random.Random(1)
    waiting, numbers, cancelled = list(enumerate(_requests(20))), {}, set()
    seen: dict[int, list[Event]] = {}
    while waiting or engine.num_active:
        while waiting and draw.random() < 0.5:
            number, request = waiting.pop(0)
            numbers[engine.add(request)] = number
            engine.add(Request(request.prompt_ids, max_new_tokens=2))  # an unseeded neighbour
        for event in engine.step():
            seen.setdefault(event.request_id, []).append(event)
        if numbers and draw.random() < 0.1:
            cancelled.add(victim := draw.choice(list(numbers)))
            engine.cancel(victim)
    assert len(numbers) == 20 and cancelled
    for request_id, number in numbers.items():
        expected = _plain(generate(network, _requests(20)[number]))
        events = _plain(seen.get(request_id, []))
        assert events == expected[: len(events)] if request_id in cancelled else events == expected


def test_streams_and_steps_mix(network: Network) -> None:
    requests = _requests(3)
    expected = [_plain(generate(network, request)) for request in requests]
    engine = Engine(network)
    added = engine.add(requests[0])
    streams = [engine.stream(request) for request in requests[1:]]
    streamed: list[list[Event]] = [[], []]
    stepped: list[Event] = []
    for _ in range(30):
        for stream, events in zip(streams, streamed, strict=True):
            events.extend(event for event in [next(stream, None)] if event)
        stepped += engine.step()
    assert {event.request_id for event in stepped} == {added}
    assert [_plain(events) for events in (stepped, *streamed)] == expected
    assert engine.num_active == 0


def test_closing_a_stream_cancels_it(network: Network) -> None:
    engine = Engine(network)
    stream = engine.stream(Request([1], max_new_tokens=9))
    next(stream)
    stream.close()
    assert engine.num_active == 0 and engine.step() == []


def test_a_failing_request_costs_its_neighbours_nothing(network: Network) -> None:
    def broken(logits_BV: torch.Tensor, history: object) -> torch.Tensor:
        raise ZeroDivisionError("a plugin's bug")

    engine = Engine(network)
    good = Request([1, 2], max_new_tokens=3, samplers=GREEDY)
    first = engine.add(good)
    engine.add(Request([1], max_new_tokens=3, samplers=[broken]))  # type: ignore[list-item]
    last = engine.add(good)
    with pytest.raises(ZeroDivisionError):
        engine.step()
    events = engine.step() + engine.step()
    for request_id in (first, last):
        assert _ids([event for event in events if event.request_id == request_id]) == _ids(generate(network, good))
    other = engine.stream(good)
    engine.add(Request([1], max_new_tokens=3, samplers=[broken]))  # type: ignore[list-item]
    assert _ids(list(other)) == _ids(generate(network, good))
    with pytest.raises(ZeroDivisionError):
        list(engine.stream(Request([1], max_new_tokens=3, samplers=[broken])))  # type: ignore[list-item]


def test_counts_and_reasons(network: Network) -> None:
    def reply(**settings: object) -> list[Event]:
        return list(Engine(network).stream(Request(**{"prompt_ids": [1, 2], "max_new_tokens": 6, "samplers": GREEDY, **settings})))  # type: ignore[arg-type]

    free = reply()
    assert len(free) == 6 and [event.finish_reason for event in free] == [None] * 5 + ["length"]
    stop = free[2].token_id
    cut = reply(stop_ids=[stop])
    assert _ids(cut) == _ids(free)[: _ids(free).index(stop) + 1] and cut[-1].finish_reason == "stop"
    late = reply(stop_ids=range(31), min_new_tokens=0)
    assert len(late) == 1 and late[0].finish_reason == "stop"
    several = sorted(set(range(31)) - {4})
    held = reply(stop_ids=several, min_new_tokens=5)
    assert _ids(held)[:5] == [4] * 5 and len(held) == 6 and held[-1].token_id in {*several, 4}


def test_the_context_ends_a_reply_with_length(network: Network) -> None:
    events = list(Engine(network).stream(Request([1] * 20, max_new_tokens=100)))
    assert len(events) == 4 and events[-1].finish_reason == "length"
    with pytest.raises(RequestError, match="shorten the prompt"):
        Engine(network).stream(Request([1] * 24, max_new_tokens=1))


def test_seeds(network: Network) -> None:
    """The same one gives the same reply, others give others, none leaves the global generator alone."""
    engine, state = Engine(network), torch.get_rng_state()

    def reply(seed: int | None) -> list[int]:
        return _ids(list(engine.stream(Request([1], max_new_tokens=20, seed=seed))))

    assert reply(1) == reply(1)
    assert len({tuple(reply(seed)) for seed in range(5)}) == 5
    assert reply(None) != reply(None)
    assert torch.equal(state, torch.get_rng_state())


def test_weights_modes_and_gradients_are_left_alone(network: Network) -> None:
    """Modules frozen in evaluation mode stay so, and the network trains on as if nothing had been generated."""
    network.train()
    frozen = list(network.modules())[1]
    frozen.eval()
    before, modes = _hash(network), [module.training for module in network.modules()]
    engine = Engine(network)
    first = _ids(list(engine.stream(Request([1, 2], max_new_tokens=9, samplers=GREEDY))))
    assert first == _ids(list(engine.stream(Request([1, 2], max_new_tokens=9, samplers=GREEDY))))  # no dropout
    assert [module.training for module in network.modules()] == modes
    loss = network.logits(network(torch.tensor([[1, 2, 3]]))).square().mean()
    torch.autograd.backward(loss)
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert _hash(network) == before


def test_modes_are_restored_after_an_error() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout()).train()
    module[1].eval()

    def fail() -> None:
        with evaluating(module):
            assert not module[0].training
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert module.training and module[0].training and not module[1].training


def test_new_tokens_only_with_a_cache_and_a_note_without(caplog: pytest.LogCaptureFixture, network: Network) -> None:
    lengths: list[int] = []
    network.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    engine = Engine(network)
    with caplog.at_level(logging.WARNING, logger="framework.engine.engine"):
        for _ in range(2):
            list(engine.stream(Request([1, 2, 3, 4], max_new_tokens=4)))
    cached = network.new_cache(1, 8) is not None
    assert lengths == ([4, 1, 1, 1] if cached else [4, 5, 6, 7]) * 2
    assert [record.message for record in caplog.records] == (
        [] if cached else ["Plain has no cache: every token costs a pass over the whole sequence"]
    )


def test_rows_that_pad_the_vocabulary_are_never_drawn() -> None:
    from framework.networks.shape import NetworkShape
    from framework.networks.transformer import Transformer

    network = Transformer(NetworkShape(num_layers=1, width=8, num_heads=2, tied_embeddings=False), 31, 24, vocab_multiple=64).eval()
    with torch.no_grad():
        network.head.weight[31:] = 100.0  # type: ignore[union-attr]
    events = list(Engine(network).stream(Request([1], max_new_tokens=23, seed=0)))
    assert all(event.token_id < 31 and event.logprob > -20 for event in events)


def test_registries() -> None:
    assert set(Engine.registries) == {"tokenizers", "optimizers", "schedulers", "samplers", "recipes"}
    assert {"Greedy", "Temperature", "TopK", "TopP", "MinP", "RepetitionPenalty"} <= set(Engine.registries["samplers"])
    assert {"AdamW", "Muon", "SGD"} <= set(Engine.registries["optimizers"])
