"""Samplers that look back: what they count, what they leave alone, transformers' processors and OpenAI's formula."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from framework.samplers.base import History, Sampler
from framework.samplers.penalties import FrequencyPenalty, NoRepeatNgram, PresencePenalty, RepetitionPenalty
from framework.testing.samplers import CHECKS

WORKING = [
    RepetitionPenalty(1.3),
    RepetitionPenalty(0.5),
    FrequencyPenalty(1.5),
    FrequencyPenalty(-0.7),
    PresencePenalty(1.5),
    PresencePenalty(-0.7),
    NoRepeatNgram(1),
    NoRepeatNgram(2),
]
IDLE = [RepetitionPenalty(1.0), FrequencyPenalty(0.0), PresencePenalty(0.0), NoRepeatNgram(0)]


def _name(sampler: Sampler) -> str:
    return f"{type(sampler).__name__}{list(vars(sampler).values())[1]}"


def _random(rows: int, columns: int, seed: int = 0) -> Tensor:
    return 3.0 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sampler", [*WORKING, *IDLE], ids=_name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(sampler: Sampler, check) -> None:  # type: ignore[no-untyped-def]
    check(sampler)


def test_repetition_divides_positive_and_multiplies_negative_logits_once_a_token() -> None:
    logits_BV = torch.tensor([[0.1, -0.1, 0.4, -0.4, 0.0]])
    history = History(torch.tensor([[0, 0, 1, 0]]), torch.tensor([2]))
    assert RepetitionPenalty(2.0)(logits_BV, history)[0].tolist() == pytest.approx([0.05, -0.2, 0.4, -0.4, 0.0])


def test_frequency_and_presence_count_the_reply_only() -> None:
    history = History(torch.tensor([[0, 1, 1, 2, 2, 2, -1]]), torch.tensor([2]))
    zeros_BV = torch.zeros(1, 4)
    assert FrequencyPenalty(0.5)(zeros_BV, history)[0].tolist() == [0.0, -0.5, -1.5, 0.0]
    assert PresencePenalty(0.5)(zeros_BV, history)[0].tolist() == [0.0, -0.5, -0.5, 0.0]
    only_prompt = History(history.tokens_BL, torch.tensor([7]))
    assert torch.equal(FrequencyPenalty(0.5)(zeros_BV, only_prompt), zeros_BV)


@pytest.mark.parametrize("sampler", [RepetitionPenalty(2.0), FrequencyPenalty(1.0), PresencePenalty(1.0), NoRepeatNgram(1)], ids=_name)
def test_padding_is_no_token(sampler: Sampler) -> None:
    """-1 must neither hit the last token, as an index would, nor the first, wherever the first stands and with nothing else there."""
    logits_BV = torch.ones(4, 4)
    tokens_BL = torch.tensor([[2, -1, -1], [1, 3, 1], [0, 2, -1], [-1, -1, -1]])
    touched = sampler(logits_BV, History(tokens_BL, torch.zeros(4, dtype=torch.long))) != logits_BV
    assert [row.nonzero().flatten().tolist() for row in touched] == [[2], [1, 3], [0, 2], []]


def test_what_cannot_be_seen_is_left_as_it_is_to_the_bit() -> None:
    logits_BV = torch.tensor([[-0.0, 0.0, -math.inf, 1e-40, 3.0]])
    history = History(torch.tensor([[0, 1, 2, 3]]), torch.tensor([4]))  # a prompt alone
    for sampler in (FrequencyPenalty(1.0), PresencePenalty(1.0)):
        assert torch.equal(sampler(logits_BV, history).view(torch.int32), logits_BV.view(torch.int32))


def test_openai_s_formula_in_plain_python() -> None:
    draw = random.Random(0)
    for _ in range(30):
        length, prompt_length = draw.randint(1, 20), draw.randint(0, 10)
        tokens, logits = [draw.randrange(8) for _ in range(length)], [draw.gauss(0.0, 3.0) for _ in range(8)]
        frequency, presence = draw.uniform(-2.0, 2.0), draw.uniform(-2.0, 2.0)
        counts = [tokens[prompt_length:].count(token) for token in range(8)]
        expected = [logit - count * frequency - float(count > 0) * presence for logit, count in zip(logits, counts)]
        history = History(torch.tensor([[*tokens, -1, -1]]), torch.tensor([prompt_length]))
        logits_BV = torch.tensor([logits], dtype=torch.float64)
        for sampler in (FrequencyPenalty(frequency), PresencePenalty(presence)):
            logits_BV = sampler(logits_BV, history)
        assert logits_BV[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_no_repeat_ngram_excludes_what_would_complete_one() -> None:
    history = History(torch.tensor([[1, 2, 3, 1, 2], [4, 4, 4, -1, -1], [1, 2, -1, -1, -1]]), torch.tensor([2, 1, 1]))
    excluded = [
        [(row == -math.inf).nonzero().flatten().tolist() for row in NoRepeatNgram(n)(torch.zeros(3, 6), history)] for n in (1, 2, 3, 4, 9)
    ]
    assert excluded[0] == [[1, 2, 3], [4], [1, 2]]
    assert excluded[1] == [[3], [4], []]
    assert excluded[2] == [[3], [4], []]
    assert excluded[3] == excluded[4] == [[], [], []]


def test_no_repeat_ngram_leaves_a_row_with_nothing_else_alone() -> None:
    logits_BV = torch.tensor([[-math.inf, 1.0, 2.0], [0.0, 1.0, 2.0]])
    history = History(torch.tensor([[1, 2], [1, 2]]), torch.tensor([1, 1]))
    assert NoRepeatNgram(1)(logits_BV, history).tolist() == [[-math.inf, 1.0, 2.0], [0.0, -math.inf, -math.inf]]


def test_transformers_agrees_on_random_logits() -> None:
    processors = pytest.importorskip("transformers.generation.logits_process")
    num_compared = 0
    for seed, (vocab_size, length) in enumerate([(300, 12), (5, 30), (3, 2), (40, 1), (7, 60)]):
        logits_BV = _random(8, vocab_size, seed)
        ids_BL = torch.randint(vocab_size, (8, length), generator=torch.Generator().manual_seed(seed))
        history = History(ids_BL, torch.full((8,), length // 2))
        for ours, theirs in [
            (RepetitionPenalty(1.7), processors.RepetitionPenaltyLogitsProcessor(1.7)),
            (RepetitionPenalty(0.6), processors.RepetitionPenaltyLogitsProcessor(0.6)),
            *[(NoRepeatNgram(n), processors.NoRepeatNGramLogitsProcessor(n)) for n in (1, 2, 3)],
        ]:
            expected = theirs(ids_BL, logits_BV.clone())
            left = expected.isfinite().any(dim=-1)  # theirs may exclude every token of a row
            assert torch.equal(ours(logits_BV, history)[left], expected[left]), (_name(ours), vocab_size, length)
            num_compared += int(left.sum())
    assert num_compared > 150  # of 200 rows
