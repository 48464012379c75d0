"""Our engine beside our training forward: cached against uncached, one prompt at a time against all of them together.

Shape legend: T tokens, V vocabulary.
A network and prompts flow in; greedy replies, and findings about them, flow out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from framework.engine.engine import Engine
from framework.engine.request import Request
from framework.networks.base import Network
from framework.parity.findings import Finding, failed, passed
from framework.samplers.selection import Greedy

CHUNK_TOKENS = 16  # prompts are read in several rounds, so that the cache is used while they are read, too


class Reply(NamedTuple):
    """What the engine wrote after a prompt.

    Attributes:
        prompt_ids, ids: the prompt, and the reply.
        log_probs: of all tokens but the prompt's first.
    """

    prompt_ids: list[int]
    ids: list[int]
    log_probs: list[float]


def replies(network: Network, prompts: Sequence[Sequence[int]], num_tokens: int, together: bool) -> list[Reply]:
    """Greedy replies.

    Args:
        network: in eval mode.
        prompts: their ids, of uneven lengths.
        num_tokens: of each reply; nothing else ends it.
        together: all prompts in one batch; else each alone.
    """
    engine = Engine(network, max_running=len(prompts) if together else 1, chunk_tokens=CHUNK_TOKENS, prefix_cache=together)
    requests = [Request(list(ids), num_tokens, samplers=[Greedy()], logprobs=0, prompt_logprobs=0) for ids in prompts]
    found = [Reply(list(ids), [], []) for ids in prompts]
    numbers = {engine.add(request): number for number, request in enumerate(requests)}
    while engine.num_active:
        for event in engine.step():
            if event.error is not None:
                raise event.error
            reply = found[numbers[event.request_id]]
            reply.log_probs.extend(log_prob for log_prob, _ in event.prompt_logprobs or ())
            assert event.logprob is not None
            reply.ids.append(event.token_id)
            reply.log_probs.append(event.logprob)
    return found


def compare(check: str, written: Sequence[Reply], logits: Sequence[Tensor], tolerance: float) -> Finding:
    """Whether replies are what the training forward says: the same log-probabilities, and each token the likeliest.

    Args:
        check: what the finding is called.
        written: by the engine.
        logits: of the training forward over each prompt and its reply, [T, V].
        tolerance: largest difference of a log-probability allowed, nats.
    """
    problems, largest = [], 0.0
    for number, (reply, logits_TV) in enumerate(zip(written, logits, strict=True)):
        ids = [*reply.prompt_ids, *reply.ids]
        log_probs_TV = logits_TV[:-1].log_softmax(-1)
        theirs_T = log_probs_TV.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        differences_T = (theirs_T - torch.tensor(reply.log_probs)).abs()
        largest = max(largest, float(differences_T.max()))
        if (differences_T > tolerance).any():
            place = int((differences_T > tolerance).nonzero()[0]) + 1
            problems.append(f"prompt {number}: the log-probability of token {place} differs by {float(differences_T[place - 1]):.3g}")
        problems += [
            f"prompt {number}: token {place} is {ids[place]}, the training forward has {best}"
            for place, best in unlike(logits_TV, ids, len(reply.prompt_ids), tolerance)
        ][:1]
    figures = {"largest difference": largest, "tolerance": tolerance}
    if problems:
        return failed(check, problems, **figures)
    tokens = sum(len(reply.ids) for reply in written)
    return passed(check, f"log-probabilities within {largest:.1e} (tolerance {tolerance:.0e}); {tokens} greedy tokens equal", **figures)


def unlike(logits_TV: Tensor, ids: Sequence[int], first: int, tolerance: float) -> list[tuple[int, int]]:
    """(place, the likeliest token there) from place `first` on, where the token is not the likeliest, by more than rounding can do."""
    before_TV = logits_TV[first - 1 : len(ids) - 1]
    best_T = before_TV.argmax(-1)
    gap_T = (before_TV.amax(-1) - before_TV.gather(1, torch.tensor(ids[first:])[:, None])[:, 0]).tolist()
    return [(first + place, int(best)) for place, (best, gap) in enumerate(zip(best_T, gap_T, strict=True)) if gap > 2 * tolerance]
