"""The slow, obvious generator: the oracle that the engine is tested against.

Shape legend: T tokens, D model width, V vocabulary. One reply at a time, no cache, the whole sequence through the network for every
token, each sampler called by itself, the draw in float64 over the whole vocabulary. Knows no text; must not know the engine.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.engine.draw import uniforms
from framework.engine.reply import Reply, replies_of
from framework.engine.request import Event, Request
from framework.networks.base import Network
from framework.samplers.base import History


@torch.inference_mode()
def generate(network: Network, request: Request) -> list[Event]:
    """All events of a request, as request number 0, reply by reply. The network must be in evaluation mode."""
    num_new_tokens = request.num_new_tokens(network.vocab_size, network.context_length)
    events: list[Event] = []
    for reply in replies_of(0, request, num_new_tokens):
        finish_reason = None
        while finish_reason is None:
            hidden_TD: Tensor = network(torch.tensor([reply.tokens]))[0]
            logits_V = network.logits(hidden_TD[-1:])[0].double()
            processed_V = _processed(reply, logits_V)
            token = _draw(processed_V, float(uniforms(torch.tensor([reply.seed]), torch.tensor([reply.num_drawn]))))
            source_V = processed_V if request.processed_logprobs else logits_V
            logprob = None if request.logprobs is None else source_V.log_softmax(-1)[token].item()
            top = _top(source_V, request.logprobs or 0)
            scores = None
            if request.prompt_logprobs is not None and not reply.num_drawn:
                logits_TV = network.logits(hidden_TD).double()
                targets = list(enumerate(reply.tokens[1:]))
                scores = tuple(
                    (logits_TV[at].log_softmax(-1)[target].item(), _top(logits_TV[at], request.prompt_logprobs)) for at, target in targets
                )
            finish_reason = reply.append(token)
            events.append(Event(0, token, logprob, finish_reason, reply.index, top, scores))
    return events


def _processed(reply: Reply, logits_V: Tensor) -> Tensor:
    request = reply.request
    logits_V = logits_V.clone()
    if reply.num_drawn < request.min_new_tokens:
        logits_V[list(request.stop_ids)] = -math.inf
    if request.constraint is not None:
        logits_V[~request.constraint.allowed(reply.tokens[reply.prompt_length :])] = -math.inf
    for sampler in request.samplers:
        logits_V = sampler(logits_V[None], History(torch.tensor([reply.tokens]), torch.tensor([reply.prompt_length])))[0]
    return logits_V


def _draw(logits_V: Tensor, uniform: float) -> int:
    cumulative_V = logits_V.softmax(-1).cumsum(-1)
    return int(torch.searchsorted(cumulative_V, uniform * cumulative_V[-1], right=True))


def _top(logits_V: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    values, ids = logits_V.log_softmax(-1).sort(descending=True, stable=True)
    return tuple(zip(ids[:count].tolist(), values[:count].tolist()))
