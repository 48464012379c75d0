"""What the samplers of a request make of the next token's logits, one after the other, and the loop in which the engine writes.

Shape legend: V vocabulary.
Logits, requests and an engine flow in, plain numbers flow out. Must not know text or how it is shown.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from framework.engine.engine import Engine
from framework.engine.request import Alternatives, FinishReason, Request
from framework.networks.cache import BLOCK_TOKENS
from framework.networks.digest import hexadecimal, sha256
from framework.samplers.base import History, Sampler
from framework.samplers.distribution import best_first
from framework.samplers.rowwise import Rowwise


class Stage(NamedTuple):
    """A sampler that changed something, and how many tokens can still be drawn after it."""

    name: str
    num_left: int


class Candidate(NamedTuple):
    """A token: its logit, its probability as the network says and as it is drawn with (0: cut off)."""

    token_id: int
    logit: float
    before: float
    after: float


class Cut(NamedTuple):
    """The next token's candidates, the likeliest of the network first, and what the samplers did."""

    stages: list[Stage]
    candidates: list[Candidate]


class Step(NamedTuple):
    """A round of the engine that drew a token.

    Attributes:
        token_id: what was drawn.
        probability: of it, in the distribution it was drawn from.
        top: the likeliest of that distribution, as (id, log-probability).
        num_tokens: the sequence's tokens whose keys and values had been computed when it was drawn.
        cache_blocks: the cache's blocks in use after the round; none after the last: they were given back.
        finish_reason: why the reply ended with it.
    """

    token_id: int
    probability: float
    top: Alternatives
    num_tokens: int
    cache_blocks: int
    finish_reason: FinishReason | None


class Written(NamedTuple):
    """A reply, step by step.

    Attributes:
        steps: one a token.
        block_tokens: tokens of a block.
        block_bytes: its memory; 0 for a network without a cache.
        weights_before, weights_after: SHA-256 of the network's tensors.
    """

    steps: list[Step]
    block_tokens: int
    block_bytes: int
    weights_before: str
    weights_after: str


def cut(logits_V: Tensor, request: Request, num_candidates: int) -> Cut:
    """What the request's samplers make of logits at its prompt's end."""
    tokens_BL = torch.tensor([list(request.prompt_ids)], device=logits_V.device)
    history = History(tokens_BL, torch.tensor([tokens_BL.shape[1]], device=logits_V.device))
    logits_V = logits_V.to(torch.promote_types(logits_V.dtype, torch.float32))
    left_BV, stages = logits_V[None], []
    for sampler in request.samplers:
        if not sampler.changes_nothing:
            left_BV = sampler(left_BV, history)
            stages.append(Stage(_name(sampler), int(left_BV.isfinite().sum())))
    before_V, after_V = logits_V.softmax(-1), left_BV[0].softmax(-1)
    _, ids_BN = best_first(logits_V[None], min(num_candidates, len(logits_V)))
    candidates = [Candidate(i, float(logits_V[i]), float(before_V[i]), float(after_V[i])) for i in ids_BN[0].tolist()]
    return Cut(stages, candidates)


def write(engine: Engine, request: Request, num_top: int) -> Written:
    """Let the engine, which must serve nothing else, write a reply of one sequence; raises what the engine raises."""
    before, blocks = hexadecimal(sha256(engine.network)), engine.network.new_cache(1)
    block_bytes = 0 if blocks is None else (blocks.keys_LSKQ.nbytes + blocks.values_LSKQ.nbytes) // 2  # one more that pads
    engine.add(replace(request, logprobs=num_top, processed_logprobs=True))
    steps: list[Step] = []
    while engine.num_active:
        for event in engine.step():
            if event.error is not None:
                raise event.error
            assert event.logprob is not None
            used = engine.statistics.cache_tokens_used // BLOCK_TOKENS
            probability = float(torch.tensor(event.logprob, dtype=torch.float64).exp())
            num_tokens = len(request.prompt_ids) + len(steps)
            steps.append(Step(event.token_id, probability, event.top_logprobs, num_tokens, used, event.finish_reason))
    return Written(steps, BLOCK_TOKENS, block_bytes, before, hexadecimal(sha256(engine.network)))


def _name(sampler: Sampler) -> str:
    return f"{type(sampler).__name__} {sampler.setting_B1.item():g}" if isinstance(sampler, Rowwise) else type(sampler).__name__
