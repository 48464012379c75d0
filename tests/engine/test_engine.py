"""The engine against the slow reference, and what a request must never notice: neighbours, order, cancellations, memory, guesses."""

from __future__ import annotations

import copy
import hashlib
import logging
import random
from collections.abc import Callable
from functools import cache

import pytest
import torch

from framework.engine.engine import Engine
from framework.engine.reference import generate
from framework.engine.request import Event, Request
from framework.engine.runner import evaluating
from framework.engine.speculation import DraftNetwork, PromptLookup, Speculation
from framework.errors import RequestError
from framework.networks.base import Network
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.samplers.base import History, Sampler
from framework.samplers.chain import SamplingOptions
from framework.samplers.selection import Greedy

GREEDY = (Greedy(),)
NAMES = ("learned", "rotary", "plain")


class Broken(Sampler):
    def __call__(self, logits_BV: torch.Tensor, history: History) -> torch.Tensor:
        raise ZeroDivisionError("a plugin's bug")


def ids(events: list[Event]) -> list[int]:
    return [event.token_id for event in events]


def plain(events: list[Event]) -> list[tuple[int, int, str | None]]:
    return [(event.index, event.token_id, event.finish_reason) for event in sorted(events, key=lambda event: event.index)]


def fingerprint(network: Network) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())).hexdigest()


def requests(count: int, seed: int = 0, greedy: bool = False) -> list[Request]:
    draw = random.Random(seed)
    beginning = [draw.randrange(31) for _ in range(40)]
    return [
        Request(
            prompt_ids=beginning[: draw.choice([0, 0, 16, 33])] + [draw.randrange(31) for _ in range(draw.randint(1, 20))],
            max_new_tokens=draw.randint(1, 18),
            samplers=SamplingOptions(
                temperature=0.0 if greedy else draw.choice([0.0, 0.7, 1.5]),
                top_k=draw.choice([0, 5]),
                top_p=draw.choice([1.0, 0.8]),
                repetition_penalty=draw.choice([1.0, 1.4]),
            ).chain(),
            stop_ids=draw.choice([(), (3, 7)]),
            min_new_tokens=draw.randint(0, 1),
            seed=number,
            n=1 if greedy else draw.choice([1, 1, 1, 3]),
        )
        for number in range(count)
    ]


def serve(engine: Engine, wanted: list[Request], cancel: float = 0.0, seed: int = 1) -> tuple[dict[int, list[Event]], set[int]]:
    """All requests in staggered arrivals, some cancelled: the events of each by its number, and who was cancelled."""
    draw, waiting = random.Random(seed), list(enumerate(wanted))
    numbers: dict[int, int] = {}
    seen: dict[int, list[Event]] = {number: [] for number in range(len(wanted))}
    cancelled: set[int] = set()
    while waiting or engine.num_active:
        while waiting and draw.random() < 0.6:
            number, request = waiting.pop(0)
            numbers[engine.add(request)] = number
        for event in engine.step():
            assert event.error is None, event
            seen[numbers[event.request_id]].append(event)
        if numbers and draw.random() < cancel:
            request_id = draw.choice(list(numbers))
            cancelled.add(numbers[request_id])
            engine.cancel(request_id)
    return seen, cancelled


def test_engine_is_the_reference(network: Network) -> None:
    """Cached, one token at a time, against the whole sequence each time, in float64: same tokens, log-probabilities within 1e-10."""
    for request in requests(12):
        request = Request(**{**vars(request), "logprobs": 2, "prompt_logprobs": 1})
        expected, seen = generate(network, request), list(Engine(network).stream(request))
        assert plain(seen) == plain(expected)
        by_place = zip(sorted(seen, key=lambda event: event.index), expected, strict=True)
        for event, wanted in by_place:
            assert event.logprob == pytest.approx(wanted.logprob, abs=1e-10)
            assert [token for token, _ in event.top_logprobs] == [token for token, _ in wanted.top_logprobs]
            assert (event.prompt_logprobs is None) == (wanted.prompt_logprobs is None)
            if event.prompt_logprobs is not None and wanted.prompt_logprobs is not None:
                assert [score for score, _ in event.prompt_logprobs] == pytest.approx(
                    [score for score, _ in wanted.prompt_logprobs], abs=1e-10
                )
                assert [top[0][0] for _, top in event.prompt_logprobs] == [top[0][0] for _, top in wanted.prompt_logprobs]


def test_greedy_is_the_argmax_of_a_full_forward(network: Network) -> None:
    """An oracle that shares no code with the engine."""
    tokens = [5, 2, 9]
    for event in Engine(network).stream(Request([5, 2, 9], max_new_tokens=10, samplers=GREEDY, logprobs=0)):
        with torch.no_grad():
            logits = network.logits(network(torch.tensor([tokens])))[0, -1]
        assert event.token_id == logits.argmax().item()
        assert event.logprob == pytest.approx(logits.log_softmax(dim=-1).max().item(), abs=1e-10)
        tokens.append(event.token_id)


SETTINGS: dict[str, dict[str, object]] = {
    "plain": {"prefix_cache": False},
    "prefix cache": {},
    "chunked": {"chunk_tokens": 5, "max_running": 3},
    "little memory": {"cache_tokens": 80, "max_running": 8, "chunk_tokens": 16},
    "lookup": {"speculation": PromptLookup(4, longest=2, shortest=1)},
    "draft": {"speculation": "draft"},
    "draft in little memory": {"speculation": "draft", "cache_tokens": 80, "max_running": 8, "chunk_tokens": 16},
}


Expected = Callable[[str, bool], tuple[list[Request], list[list[tuple[int, int, str | None]]]]]


@pytest.fixture(scope="session")
def expected_of(make: Callable[[str], Network]) -> Expected:
    """The requests and what the reference makes of them, once for all settings: 200 for one network, 25 for the others."""

    @cache
    def expected(name: str, greedy: bool) -> tuple[list[Request], list[list[tuple[int, int, str | None]]]]:
        wanted = requests(200 if name == "rotary" and greedy else 25, greedy=greedy)
        return wanted, [plain(generate(make(name), request)) for request in wanted]

    return expected


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_requests_come_and_go(setting: str, greedy: bool, name: str, make: Callable[[str], Network], expected_of: Expected) -> None:
    """TRAP-93: cached, chunked, batched, preempted, prefix-cached and speculative replies are the reference's, token for token."""
    network, settings = make(name), dict(SETTINGS[setting])
    if settings.get("speculation") == "draft":
        settings["speculation"] = DraftNetwork(noisy(network), 3)
    wanted, expected = expected_of(name, greedy)
    engine = Engine(network, **settings)  # type: ignore[arg-type]
    seen, cancelled = serve(engine, wanted, cancel=0.1)
    assert cancelled
    for number, request in enumerate(wanted):
        events = plain(seen[number])
        if number in cancelled:
            for index in range(request.n):
                part = [event for event in events if event[0] == index]
                assert part == [event for event in expected[number] if event[0] == index][: len(part)]
        else:
            assert events == expected[number], (number, request)
    statistics = engine.statistics
    assert (statistics.running, statistics.waiting, statistics.cache_tokens_used) == (0, 0, 0)
    assert bool(statistics.prefix_tokens_hit) == (setting != "plain")
    assert bool(statistics.preemptions) == ("little memory" in setting)
    if "speculation" in settings:
        assert 0 < statistics.accepted_tokens <= statistics.proposed_tokens


def noisy(network: Network) -> Network:
    """A draft that is often right and often wrong."""
    draft = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return draft


def test_batched_logits_in_fp32_are_near(network: Network) -> None:
    """TRAP-82: log-probabilities of whole batches within 1e-5 of those of each reply alone, while the tokens agree."""
    network = network.float()
    with torch.no_grad():
        network.head_weight_VD.mul_(0.25)  # logits of a few units, as trained networks have
    wanted = [Request(**{**vars(request), "logprobs": 0}) for request in requests(12)]
    seen, _ = serve(Engine(network, chunk_tokens=16), wanted)
    for number, request in enumerate(wanted):
        for event, expected in zip(sorted(seen[number], key=lambda event: event.index), generate(network, request)):
            if event.token_id != expected.token_id:
                break  # rounding decided
            assert event.logprob == pytest.approx(expected.logprob, abs=1e-5)


def test_a_known_prompt_is_read_once() -> None:
    network = Transformer(NetworkShape(1, 16, 2), 31, 72).eval()
    engine, read = Engine(network), []
    network.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].shape[1]))
    prompt = [number % 31 for number in range(40)]
    request = Request(prompt, max_new_tokens=2, samplers=GREEDY)
    first = ids(list(engine.stream(request)))
    assert first == ids(list(engine.stream(request))) and read == [40, 1, 40 - 32, 1]
    list(engine.stream(Request([*prompt[:35], 1, 2], max_new_tokens=1)))
    assert read[4:] == [37 - 32]
    list(engine.stream(Request(prompt, max_new_tokens=1, cache_key="another tenant")))
    assert read[5:] == [40]
    with torch.no_grad():
        next(network.parameters()).add_(0.0)  # the weights' version, if not their values, has changed
    list(engine.stream(request))
    assert read[6:] == [40, 1]


def test_a_change_of_weights_is_seen_at_once(network: Network) -> None:
    """TRAP-94: nothing computed with the old weights is used, neither a known prompt nor a running reply's cache."""
    engine, request = Engine(network), Request(list(range(20)), max_new_tokens=12, samplers=GREEDY)
    list(engine.stream(request))
    stream = engine.stream(request)
    begun = [next(stream).token_id for _ in range(4)]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.3)
    rest = [event.token_id for event in stream]
    continued = Request([*request.prompt_ids, *begun], max_new_tokens=8, samplers=GREEDY)
    assert rest == ids(generate(network, continued))
    assert ids(list(engine.stream(request))) == ids(generate(network, request))


def test_n_replies_come_from_one_pass_over_the_prompt(network: Network) -> None:
    if network.new_cache(1) is None:
        pytest.skip("no cache, nothing to share")
    lengths: list[int] = []
    network.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    request = Request(list(range(20)), max_new_tokens=6, n=4, seed=5)
    events = list(Engine(network, prefix_cache=False).stream(request))
    assert lengths == [20, 4, 4, 4, 4, 4]
    assert plain(events) == plain(generate(network, request))
    texts = {tuple(event.token_id for event in events if event.index == index) for index in range(4)}
    assert len(texts) == 4
    alone = generate(network, Request(list(range(20)), max_new_tokens=6, seed=7))  # reply 2 of n
    assert ids(alone) == [event.token_id for event in events if event.index == 2]


@pytest.mark.parametrize("settings", [{"max_running": 1}, {"cache_tokens": 48, "chunk_tokens": 4}])
def test_a_prompt_read_twice_is_scored_once(settings: dict[str, int], network: Network) -> None:
    engine = Engine(network, **settings)  # type: ignore[arg-type]
    request = Request(list(range(14)), max_new_tokens=20, n=3, prompt_logprobs=1, seed=0)
    engine.add(request)
    events = engine.step()
    while engine.num_active:
        events += engine.step()
    assert [len(event.prompt_logprobs) for event in events if event.prompt_logprobs is not None] == [13] * 3
    assert plain(events) == plain(generate(network, request))


def test_one_of_n_replies_is_cancelled(network: Network) -> None:
    engine, request = Engine(network, max_running=2), Request([1, 2], max_new_tokens=4, n=3, seed=0)
    request_id = engine.add(request)
    events = engine.step()
    engine.cancel(request_id, 0)
    while engine.num_active:
        events += engine.step()
    expected = [event for event in plain(generate(network, request)) if event[0] > 0]
    assert [event for event in plain(events) if event[0] > 0] == expected
    before = Engine(network)
    request_id = before.add(request)
    before.cancel(request_id, 0)  # before it has read the prompt for the others
    events = []
    while before.num_active:
        events += before.step()
    assert plain(events) == expected


def test_streams_and_steps_mix(network: Network) -> None:
    wanted = [Request(**{**vars(request), "n": 1}) for request in requests(3)]
    expected = [plain(generate(network, request)) for request in wanted]
    engine = Engine(network)
    added = engine.add(wanted[0])
    streams = [engine.stream(request) for request in wanted[1:]]
    streamed: list[list[Event]] = [[], []]
    stepped: list[Event] = []
    for _ in range(30):
        for stream, events in zip(streams, streamed, strict=True):
            events.extend(event for event in [next(stream, None)] if event)
        stepped += engine.step()
    assert {event.request_id for event in stepped} == {added}
    assert [plain(events) for events in (stepped, *streamed)] == expected
    assert engine.num_active == 0


def test_closing_a_stream_cancels_it(network: Network) -> None:
    engine = Engine(network)
    stream = engine.stream(Request([1], max_new_tokens=9))
    next(stream)
    stream.close()
    assert engine.num_active == 0 and engine.step() == []
    assert engine.statistics.cache_tokens_used == 0


def test_a_failing_request_costs_its_neighbours_nothing(network: Network) -> None:
    engine = Engine(network)
    good = Request([1, 2], max_new_tokens=3, samplers=GREEDY)
    first = engine.add(good)
    bad = engine.add(Request([1], max_new_tokens=3, samplers=[Broken()]))
    last = engine.add(good)
    events = engine.step() + engine.step() + engine.step()
    errors = [event for event in events if event.error is not None]
    assert [(event.request_id, event.finish_reason) for event in errors] == [(bad, "error")] and isinstance(
        errors[0].error, ZeroDivisionError
    )
    for request_id in (first, last):
        assert ids([event for event in events if event.request_id == request_id]) == ids(generate(network, good))
    other = engine.stream(good)
    engine.add(Request([1], max_new_tokens=3, samplers=[Broken()]))
    assert ids(list(other)) == ids(generate(network, good))
    with pytest.raises(ZeroDivisionError):
        list(engine.stream(Request([1], max_new_tokens=3, samplers=[Broken()])))
    assert engine.statistics.cache_tokens_used == 0


def test_logits_that_are_not_finite_are_an_error(network: Network) -> None:
    with torch.no_grad():
        network.head_weight_VD[0, 0] = float("nan")
    with pytest.raises(RequestError, match="not finite"):
        list(Engine(network).stream(Request([1, 2], max_new_tokens=3)))


def test_counts_and_reasons(network: Network) -> None:
    def reply(**settings: object) -> list[Event]:
        return list(Engine(network).stream(Request(**{"prompt_ids": [1, 2], "max_new_tokens": 6, "samplers": GREEDY, **settings})))  # type: ignore[arg-type]

    free = reply()
    assert len(free) == 6 and [event.finish_reason for event in free] == [None] * 5 + ["length"]
    assert all(event.logprob is None for event in free)
    stop = free[2].token_id
    cut = reply(stop_ids=[stop])
    assert ids(cut) == ids(free)[: ids(free).index(stop) + 1] and cut[-1].finish_reason == "stop"
    late = reply(stop_ids=range(31), min_new_tokens=0)
    assert len(late) == 1 and late[0].finish_reason == "stop"
    several = sorted(set(range(31)) - {4})
    held = reply(stop_ids=several, min_new_tokens=5)
    assert ids(held)[:5] == [4] * 5 and len(held) == 6 and held[-1].token_id in {*several, 4}


def test_the_context_ends_a_reply_with_length(network: Network) -> None:
    events = list(Engine(network).stream(Request([1] * 68, max_new_tokens=100)))
    assert len(events) == 4 and events[-1].finish_reason == "length"
    with pytest.raises(RequestError, match="shorten the prompt"):
        Engine(network).stream(Request([1] * 72, max_new_tokens=1))
    with pytest.raises(RequestError, match="cache_tokens"):
        Engine(network, cache_tokens=32).stream(Request([1] * 20, max_new_tokens=30))


@pytest.mark.parametrize("name", ["max_running", "chunk_tokens", "cache_tokens"])
def test_sizes_must_be_positive(name: str, network: Network) -> None:
    with pytest.raises(RequestError, match=f"{name} is 0"):
        Engine(network, **{name: 0})  # type: ignore[arg-type]


def test_seeds(network: Network) -> None:
    """The same one gives the same reply, others give others, none leaves the global generators alone."""
    engine, state, plain_state = Engine(network), torch.get_rng_state(), random.getstate()

    def reply(seed: int | None) -> list[int]:
        return ids(list(engine.stream(Request([1], max_new_tokens=20, seed=seed))))

    assert reply(1) == reply(1)
    assert len({tuple(reply(seed)) for seed in range(5)}) == 5
    assert reply(None) != reply(None)
    assert torch.equal(state, torch.get_rng_state()) and plain_state == random.getstate()


def test_weights_modes_and_gradients_are_left_alone(network: Network) -> None:
    """Modules frozen in evaluation mode stay so, and the network trains on as if nothing had been generated."""
    network.train()
    frozen = list(network.modules())[1]
    frozen.eval()
    before, modes = fingerprint(network), [module.training for module in network.modules()]
    engine = Engine(network, speculation=PromptLookup(2, 1, 1))
    first = ids(list(engine.stream(Request([1, 2], max_new_tokens=9, samplers=GREEDY))))
    assert first == ids(list(engine.stream(Request([1, 2], max_new_tokens=9, samplers=GREEDY))))  # no dropout
    assert [module.training for module in network.modules()] == modes
    loss = network.logits(network(torch.tensor([[1, 2, 3]]))).square().mean()
    torch.autograd.backward(loss)
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert fingerprint(network) == before


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
    with caplog.at_level(logging.WARNING, logger="framework.engine.runner"):
        engine = Engine(network)
        for _ in range(2):
            list(engine.stream(Request([1, 2, 3, 4], max_new_tokens=4)))
    cached = network.new_cache(1) is not None
    assert lengths == ([4, 1, 1, 1] if cached else [4, 5, 6, 7]) * 2
    assert [record.message for record in caplog.records] == (
        [] if cached else ["Plain has no cache: every token costs a pass over the whole sequence"]
    )


@pytest.mark.parametrize(
    ("tokens", "guess"),
    [
        ([1, 2, 3, 9, 1, 2], [3, 9, 1]),
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2]),  # the latest place
        ([5, 1, 2, 3, 7, 1, 2, 8, 5, 1, 2], [3, 7, 1]),  # the longest end
        ([1, 2, 3], []),
        ([4], []),
    ],
)
def test_prompt_lookup_finds_what_followed(tokens: list[int], guess: list[int]) -> None:
    assert list(PromptLookup(3, longest=3, shortest=1).lookup(tokens)) == guess


def test_right_guesses_save_rounds() -> None:
    """A draft that is the network itself is always right, also where tokens are sampled: 12 tokens in 3 rounds of four."""
    network = Transformer(NetworkShape(1, 16, 2), 31, 72).double().eval()
    for samplers in ((), GREEDY):
        rounds: list[int] = []
        engine = Engine(network, speculation=DraftNetwork(copy.deepcopy(network), 3))
        handle = network.register_forward_pre_hook(lambda module, inputs, rounds=rounds: rounds.append(inputs[0].shape[1]))
        list(engine.stream(Request([1, 2], max_new_tokens=13, samplers=samplers, seed=3)))
        handle.remove()
        assert rounds == [2, 4, 4, 4] and engine.statistics.accepted_tokens == engine.statistics.proposed_tokens == 9


@pytest.mark.parametrize("kind", [PromptLookup, DraftNetwork])
def test_speculation_refuses_senseless_sizes(kind: type[Speculation], network: Network) -> None:
    with pytest.raises(RequestError, match="num_tokens"):
        kind(num_tokens=0) if kind is PromptLookup else kind(network, num_tokens=0)  # type: ignore[call-arg]


def test_rows_that_pad_the_vocabulary_are_never_drawn() -> None:
    network = Transformer(NetworkShape(num_layers=1, width=8, num_heads=2, tied_embeddings=False), 31, 24, vocab_multiple=64).eval()
    with torch.no_grad():
        network.head.weight[31:] = 100.0  # type: ignore[union-attr]
    events = list(Engine(network).stream(Request([1], max_new_tokens=23, seed=0, logprobs=0)))
    assert all(event.token_id < 31 and event.logprob is not None and event.logprob > -20 for event in events)


def test_registries() -> None:
    assert set(Engine.registries) == {"tokenizers", "optimizers", "schedulers", "samplers", "recipes"}
    assert {"Greedy", "Temperature", "TopK", "TopP", "MinP", "RepetitionPenalty"} <= set(Engine.registries["samplers"])
    assert {"AdamW", "Muon", "SGD"} <= set(Engine.registries["optimizers"])
