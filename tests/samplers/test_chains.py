"""Chains of a batch: each row as its own samplers would have it, to the bit; what is left out; and what draws from them are like."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from framework.engine.draw import draw, uniforms
from framework.samplers.base import History, Sampler
from framework.samplers.bias import LogitBias
from framework.samplers.chain import SamplingOptions
from framework.samplers.chains import Chains
from framework.samplers.distribution import Distribution
from framework.samplers.penalties import FrequencyPenalty, NoRepeatNgram, PresencePenalty, RepetitionPenalty
from framework.samplers.selection import Greedy, MinP, Temperature, TopK, TopP, TypicalP


class DropBest(Sampler):
    """As a plugin has it: no `together`, no history, any columns; leaves out the best token where it is not the only one."""

    looks_back = False

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        best_B1 = logits_BV.argmax(dim=-1, keepdim=True)
        others_BV = logits_BV.scatter(-1, best_B1, -math.inf)
        return torch.where((others_BV == -math.inf).all(dim=-1, keepdim=True), logits_BV, others_BV)


class LikeTheLast(Sampler):
    """As a plugin that knows of no attribute: needs the history and the whole vocabulary."""

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        last_B1 = history.tokens_BL.amax(dim=-1, keepdim=True).clamp(min=0)
        return logits_BV + 1.0 / (1.0 + (torch.arange(logits_BV.shape[-1]) - last_B1).abs())


def _one_by_one(chain: Sequence[Sampler], logits_BV: Tensor, history: History) -> Tensor:
    for sampler in chain:
        logits_BV = sampler(logits_BV, history)
    return logits_BV


def _never() -> History:
    raise AssertionError("a history was asked for")


# --- the same as one after the other ---


def _chain(pick: random.Random, vocab_size: int) -> list[Sampler]:
    def maybe(idle: object, *values: object) -> object:
        return idle if pick.random() < 0.5 else pick.choice(values)

    options = SamplingOptions(
        temperature=maybe(1.0, 0.0, 0.5, 2.0, 1e-9),  # type: ignore[arg-type]
        top_k=maybe(0, 1, 2, 5, 40, vocab_size, vocab_size + 5),  # type: ignore[arg-type]
        top_p=maybe(1.0, 0.3, 0.9, 0.999, 1e-9),  # type: ignore[arg-type]
        min_p=maybe(0.0, 0.05, 0.5, 1.0),  # type: ignore[arg-type]
        typical_p=maybe(1.0, 0.2, 0.9),  # type: ignore[arg-type]
        repetition_penalty=maybe(1.0, 1.3, 0.7),  # type: ignore[arg-type]
        frequency_penalty=maybe(0.0, 0.5, -1.0),  # type: ignore[arg-type]
        presence_penalty=maybe(0.0, 0.5, -1.0),  # type: ignore[arg-type]
        no_repeat_ngram_size=maybe(0, 1, 2, 3),  # type: ignore[arg-type]
        logit_bias=maybe({}, {3: 5.0}, {0: -100.0, 5: 1.5}),  # type: ignore[arg-type]
    )
    chain = options.chain()
    for extra in (DropBest(), LikeTheLast(), Greedy()):
        if pick.random() < 0.15:
            chain.insert(pick.randint(0, len(chain)), extra)
    if pick.random() < 0.2:
        pick.shuffle(chain)
    return chain if pick.random() < 0.9 else []


def _logits(pick: random.Random, generator: torch.Generator, rows: int, vocab_size: int) -> Tensor:
    """Random, flat, tied and partly excluded ones."""
    logits_BV = torch.randn(rows, vocab_size, generator=generator, dtype=pick.choice([torch.float32, torch.float64]))
    logits_BV = logits_BV * pick.choice([0.01, 1.0, 3.0, 10.0])
    match pick.randrange(8):
        case 0 | 1:
            logits_BV = logits_BV.round()
        case 2 | 3:
            logits_BV = logits_BV.bfloat16().to(logits_BV.dtype)
        case 4:
            logits_BV = torch.zeros_like(logits_BV)
    if pick.random() < 0.3:
        logits_BV = logits_BV.masked_fill(torch.rand(rows, vocab_size, generator=generator) < pick.choice([0.3, 0.95]), -math.inf)
        logits_BV[:, pick.randrange(vocab_size)] = 1.0
    return logits_BV


def _history(pick: random.Random, generator: torch.Generator, rows: int, vocab_size: int) -> History:
    longest = pick.randint(1, 12)
    tokens_BL = torch.randint(min(vocab_size, pick.choice([3, vocab_size])), (rows, longest), generator=generator)
    lengths_B = torch.randint(1, longest + 1, (rows,), generator=generator)
    tokens_BL[torch.arange(longest) >= lengths_B[:, None]] = -1
    return History(tokens_BL, torch.minimum(lengths_B, torch.randint(1, longest + 1, (rows,), generator=generator)))


@pytest.mark.parametrize("block", range(8))
def test_every_row_is_what_its_own_samplers_make_of_it_to_the_bit(block: int) -> None:
    """Whatever its neighbours' settings; and its draw is the same from candidates, from the vocabulary, alone and in the batch."""
    for seed in range(50 * block, 50 * block + 50):
        pick, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        rows, vocab_size = pick.randint(1, 6), pick.choice([7, 50, 130, 300, 1000, 5000])
        logits_BV, history = _logits(pick, generator, rows, vocab_size), _history(pick, generator, rows, vocab_size)
        chains = [_chain(pick, vocab_size) for _ in range(rows)]
        before = logits_BV.clone()
        distribution = Chains(chains)(logits_BV, lambda history=history: history)
        assert torch.equal(logits_BV, before)
        numbers = torch.rand(rows, generator=generator, dtype=torch.float64)
        tokens, valid = draw(distribution, numbers)
        for row, chain in enumerate(chains):
            own_history = History(history.tokens_BL[row : row + 1], history.prompt_lengths_B[row : row + 1])
            expected = _one_by_one(chain, logits_BV[row : row + 1], own_history)
            if any(sampler.is_greedy for sampler in chain):
                assert tokens[row] == expected.argmax(), seed
            else:
                assert torch.equal(distribution.dense()[row], expected[0]), seed
            assert tokens[row] == draw(Distribution(expected, None, vocab_size), numbers[row : row + 1])[0][0], seed
            assert valid[row] and expected[0, tokens[row]].isfinite(), seed


def test_a_large_vocabulary_and_several_threads() -> None:
    """Whose sums torch splits otherwise for a row alone than for a batch."""
    pick, generator = random.Random(0), torch.Generator().manual_seed(0)
    logits_BV, history = 3.0 * torch.randn(6, 50_257, generator=generator), _history(pick, generator, 6, 50_257)
    chains = [[Temperature(0.4), *kind] for kind in ([TopP(0.9)], [TopK(40), TopP(0.8)], [MinP(0.01)], [TypicalP(0.5)], [], [TopK(7)])]
    torch.set_num_threads(2)
    together = Chains(chains)(logits_BV).dense()
    tokens, _ = draw(Distribution(together, None, 50_257), torch.full((6,), 0.7))
    for row, chain in enumerate(chains):
        alone = Chains([chain])(logits_BV[row : row + 1])
        assert torch.equal(alone.dense()[0], together[row])
        assert torch.equal(_one_by_one(chain, logits_BV[row : row + 1], history)[0], together[row])
        assert draw(alone, torch.tensor([0.7]))[0][0] == tokens[row]


# --- what is left out ---


def test_a_batch_that_changes_nothing_keeps_the_very_logits() -> None:
    logits_BV = torch.randn(3, 50)
    chains = Chains([SamplingOptions().chain()] * 3)
    assert not chains.looks_back and not chains.is_greedy
    distribution = chains(logits_BV, _never)
    assert distribution.logits_BC is logits_BV and distribution.ids_BC is None


def test_half_precision_is_raised() -> None:
    assert Chains([[]])(torch.randn(1, 9).bfloat16()).logits_BC.dtype == torch.float32


def test_a_history_is_made_only_where_it_is_read_and_once() -> None:
    calls = []

    def history() -> History:
        calls.append(1)
        return History(torch.tensor([[1], [2], [3]]), torch.tensor([0, 0, 0]))

    assert not Chains([SamplingOptions(top_k=3).chain(), [DropBest()]]).looks_back
    chains = Chains([SamplingOptions(repetition_penalty=2.0).chain(), [LikeTheLast()], [Temperature(0.5)]])
    assert chains.looks_back
    chains(torch.randn(3, 50), history)
    assert len(calls) == 1


def test_greedy_rows_have_one_candidate_each_and_need_no_history() -> None:
    kinds = [[Greedy()], [Temperature(0.0)], [TopK(1)], [TopP(1e-9)], SamplingOptions(temperature=0.0, top_k=50, top_p=0.9).chain()]
    chains = Chains(kinds)  # type: ignore[arg-type]
    logits_BV = torch.randn(5, 300).round()
    distribution = chains(logits_BV, _never)
    assert chains.is_greedy and distribution.ids_BC is not None
    assert torch.equal(distribution.ids_BC, logits_BV.argmax(dim=-1, keepdim=True))
    assert not Chains([*kinds, [Temperature(0.5)]]).is_greedy  # type: ignore[list-item]


def test_after_a_selection_few_columns_are_left() -> None:
    seen = []

    class Watch(DropBest):
        def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
            seen.append(logits_BV.shape[-1])
            return logits_BV

    Chains([[TopK(20), Watch()], [TopK(30), Watch()]])(torch.randn(2, 5000))
    Chains([[TopP(0.01), Watch()], [TopP(0.02), Watch()]])(torch.randn(2, 5000))
    assert seen[:2] == [30, 30] and max(seen[2:]) < 100


def test_chains_can_be_called_again_and_again() -> None:
    chains = Chains([SamplingOptions(top_k=5).chain(), SamplingOptions(temperature=0.0).chain(), []])
    for seed in range(3):
        logits_BV = torch.randn(3, 70, generator=torch.Generator().manual_seed(seed))
        expected = [logits_BV[0].topk(5).indices.sort().values.tolist(), [logits_BV[1].argmax().item()], list(range(70))]
        assert [row.isfinite().nonzero()[:, 0].tolist() for row in chains(logits_BV).dense()] == expected


def test_a_sampler_that_fails_is_no_silence() -> None:
    class Broken(Sampler):
        def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
            raise ZeroDivisionError("a plugin's bug")

    with pytest.raises(ZeroDivisionError):
        Chains([[], [Broken()]])(torch.zeros(2, 5), lambda: History(torch.tensor([[1], [1]]), torch.tensor([1, 1])))


# --- draws against distributions worked out in plain Python (TRAP-90) ---

PROBABILITIES = [0.02, 0.3, 0.08, 0.2, 0.1, 0.05, 0.25]
TOKENS, PROMPT_LENGTH = [1, 2, 6, 3, 6, 3, 6], 2
NUM_DRAWS = 100_000


def _softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(logit) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def _keep(logits: list[float], order: list[int], count: int) -> list[float]:
    return [logit if token in order[:count] else -math.inf for token, logit in enumerate(logits)]


def _by_hand(sampler: Sampler, logits: list[float]) -> list[float]:
    """What a sampler is defined to do, a token at a time."""
    probabilities, reply = _softmax(logits), TOKENS[PROMPT_LENGTH:]
    best = sorted(range(len(logits)), key=lambda token: -logits[token])

    def needed(order: list[int], p: float) -> int:
        return next(n for n in range(1, len(order) + 1) if sum(probabilities[token] for token in order[:n]) >= p - 1e-9)

    match sampler:
        case Greedy():
            return _keep(logits, best, 1)
        case Temperature(temperature=t):
            return [logit / t for logit in logits]
        case TopK(k=k):
            return _keep(logits, best, k)
        case TopP(p=p):
            return _keep(logits, best, needed(best, p))
        case MinP(p=p):
            return [logit if probabilities[i] >= p * max(probabilities) else -math.inf for i, logit in enumerate(logits)]
        case TypicalP(p=p):
            entropy = -sum(value * math.log(value) for value in probabilities if value)
            order = sorted((i for i in best if probabilities[i]), key=lambda token: abs(-math.log(probabilities[token]) - entropy))
            return _keep(logits, order, needed(order, p))
        case LogitBias(biases=biases):
            return [logit + biases.get(token, 0.0) for token, logit in enumerate(logits)]
        case RepetitionPenalty(penalty=x):
            return [(logit / x if logit > 0 else logit * x) if i in TOKENS else logit for i, logit in enumerate(logits)]
        case FrequencyPenalty(penalty=x):
            return [logit - x * reply.count(token) for token, logit in enumerate(logits)]
        case PresencePenalty(penalty=x):
            return [logit - x * (token in reply) for token, logit in enumerate(logits)]
        case NoRepeatNgram(n=2):
            return [-math.inf if (TOKENS[-1], token) in itertools.pairwise(TOKENS) else logit for token, logit in enumerate(logits)]
    raise AssertionError(sampler)


CHAINS: list[list[Sampler]] = [
    [],
    [Greedy()],
    [Temperature(0.6)],
    [TopK(4)],
    [TopP(0.7)],
    [MinP(0.2)],
    [TypicalP(0.6)],
    [LogitBias({0: 2.5, 1: -1.0})],
    [RepetitionPenalty(1.6)],
    [FrequencyPenalty(0.4)],
    [PresencePenalty(0.9)],
    [NoRepeatNgram(2)],
    [Temperature(1.5), TopK(6), TopP(0.9), MinP(0.05)],
    [TopP(0.9), Temperature(1.5)],
    SamplingOptions(1.3, 6, 0.97, 0.02, 0.98, 1.2, 0.1, 0.2, 0, {0: 2.0}).chain(),
]


def _p_value(counts: Tensor, expected: Tensor) -> float:
    """Chi-square survival function over the categories with any probability."""
    statistic = ((counts - expected).square() / expected)[expected > 0].sum()
    freedom = int((expected > 0).sum()) - 1
    return torch.special.gammaincc(torch.tensor(freedom / 2, dtype=torch.float64), statistic / 2).item() if freedom else 1.0


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("place", range(len(CHAINS)), ids=lambda place: "+".join(type(s).__name__ for s in CHAINS[place]) or "none")
def test_draws_follow_the_distribution_worked_out_by_hand(place: int, seed: int) -> None:
    """In a batch of all chains together."""
    logits = [math.log(probability) + 1.5 for probability in PROBABILITIES]  # of both signs
    chains, rows = Chains(CHAINS), len(CHAINS)
    history = History(torch.tensor([TOKENS] * rows), torch.tensor([PROMPT_LENGTH] * rows))
    logits_BC, ids_BC, vocab_size, _ = chains(torch.tensor([logits] * rows), lambda: history).divided()
    one = Distribution(logits_BC[place].expand(NUM_DRAWS, -1), None if ids_BC is None else ids_BC[place].expand(NUM_DRAWS, -1), vocab_size)
    tokens, _ = draw(one, uniforms(torch.full((NUM_DRAWS,), seed), torch.arange(NUM_DRAWS)))
    counts = torch.bincount(tokens, minlength=7).double()
    for sampler in CHAINS[place]:
        if not sampler.changes_nothing:
            logits = _by_hand(sampler, logits)
    expected = torch.tensor(_softmax(logits), dtype=torch.float64) * NUM_DRAWS
    assert counts[expected == 0].sum() == 0
    assert _p_value(counts, expected) > 1e-3


def test_the_chi_square_test_can_fail() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(NUM_DRAWS, -1)
    tokens, _ = draw(Distribution(logits, None, 3), uniforms(torch.zeros(NUM_DRAWS, dtype=torch.long), torch.arange(NUM_DRAWS)))
    assert _p_value(torch.bincount(tokens, minlength=3).double(), torch.tensor([0.49, 0.31, 0.2], dtype=torch.float64) * NUM_DRAWS) < 1e-3
