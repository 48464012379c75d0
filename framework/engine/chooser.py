"""From logits to tokens, for all replies of a round together: masks, samplers, draws and log-probabilities.

Shape legend: B draws, V vocabulary, L tokens before a draw, T tokens of a prompt. Must not know the network or its cache.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from operator import is_
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from framework.engine import draw
from framework.engine.reply import Reply
from framework.engine.request import Alternatives, Request
from framework.errors import RequestError
from framework.samplers.base import History
from framework.samplers.chains import Chains
from framework.samplers.distribution import Distribution, wide

RECENT = 4  # batches whose chains are kept: the replies that draw, a draft's guesses, searches
Result = TypeVar("Result")


class Draw(NamedTuple):
    """The token to be drawn of a reply, after so many of its proposals."""

    reply: Reply
    ahead: int

    @property
    def step(self) -> int:
        """Its number in the reply."""
        return self.reply.num_drawn + self.ahead

    def reply_ids(self) -> list[int]:
        """The reply before it."""
        return self.reply.tokens[self.reply.prompt_length :] + self.reply.proposals[: self.ahead]


class Choice(NamedTuple):
    """A drawn token, with log-probabilities where its request asks for them."""

    token: int
    logprob: float | None = None
    top_logprobs: Alternatives = ()


class Chooser:
    """Draws for many replies at a time. A draw depends on its own logits, tokens, settings and seed only."""

    def __init__(self) -> None:
        self._recent: deque[tuple[list[Request], Chains]] = deque(maxlen=RECENT)

    def choose(self, draws: Sequence[Draw], logits_BV: Tensor) -> list[Choice | Exception]:
        """A token for each draw, or why there is none."""
        return _apart(self._choose, draws, logits_BV)

    def process(self, draws: Sequence[Draw], logits_BV: Tensor) -> list[Tensor | Exception]:
        """What masks and samplers make of each draw's log-probabilities, [V], or why nothing: for a search, which adds them up."""
        return _apart(self._process, draws, logits_BV)

    def score(self, logits_TV: Tensor, tokens: Sequence[int], num_top: int) -> list[tuple[float, Alternatives]]:
        """Log-probability of each token in the network's own distribution, and the likeliest beside it."""
        return list(zip(*_logprobs(wide(logits_TV), torch.tensor(tokens, device=logits_TV.device), num_top)))

    def _choose(self, draws: Sequence[Draw], logits_BV: Tensor) -> list[Choice | Exception]:
        logits_BV = wide(logits_BV)
        distribution = self._distribution(draws, logits_BV)
        tokens_B, valid_B = draw.draw(distribution, None if distribution.is_certain else _numbers(draws))
        choices: list[Choice | Exception] = [
            Choice(token)
            if valid
            else RequestError("no token can be drawn: the network's logits are not finite, or the samplers exclude every token")
            for token, valid in zip(tokens_B.tolist(), valid_B.tolist())
        ]
        for processed in (False, True):
            rows = [
                row
                for row, each in enumerate(draws)
                if each.reply.request.logprobs is not None
                and each.reply.request.processed_logprobs is processed
                and not isinstance(choices[row], Exception)
            ]
            if rows:
                source_BV = distribution.dense() if processed else logits_BV
                num_top = [draws[row].reply.request.logprobs or 0 for row in rows]
                for row, top, logprob, alternatives in zip(rows, num_top, *_logprobs(source_BV[rows], tokens_B[rows], max(num_top))):
                    choices[row] = Choice(int(tokens_B[row]), logprob, alternatives[:top])
        return choices

    def _process(self, draws: Sequence[Draw], logits_BV: Tensor) -> list[Tensor | Exception]:
        return list(self._distribution(draws, wide(logits_BV).log_softmax(-1)).dense())

    def _distribution(self, draws: Sequence[Draw], logits_BV: Tensor) -> Distribution:
        return self._chains_of(draws)(self._restrict(draws, logits_BV), lambda: history(draws, logits_BV.device))

    def _chains_of(self, draws: Sequence[Draw]) -> Chains:
        """The samplers of these draws; kept while the same requests draw, a draft's and a search's beside the rest."""
        requests = [each.reply.request for each in draws]
        for known, chains in self._recent:
            if len(known) == len(requests) and all(map(is_, known, requests)):
                return chains
        chains = Chains([request.samplers for request in requests])
        self._recent.append((requests, chains))
        return chains

    def _restrict(self, draws: Sequence[Draw], logits_BV: Tensor) -> Tensor:
        """Logits without stop ids where a reply is too short to end, and without what constraints forbid."""
        requests = [each.reply.request for each in draws]
        short = [row for row, request in enumerate(requests) if request.min_new_tokens and request.stop_ids]
        early = [row for row in short if draws[row].step < requests[row].min_new_tokens]
        steered = [row for row, request in enumerate(requests) if request.constraint is not None]
        if not (early or steered):
            return logits_BV
        logits_BV = logits_BV.clone()
        for row in early:
            logits_BV[row, list(requests[row].stop_ids)] = -math.inf
        for row in steered:
            constraint = requests[row].constraint
            assert constraint is not None
            allowed_V = constraint.allowed(draws[row].reply_ids()).to(logits_BV.device)
            logits_BV[row].masked_fill_(~allowed_V, -math.inf)
        return logits_BV


def _apart(
    work: Callable[[Sequence[Draw], Tensor], list[Result | Exception]], draws: Sequence[Draw], logits_BV: Tensor
) -> list[Result | Exception]:
    """All draws together; if that raises, one by one: what fails for one (a sampler that raises) harms no other."""
    try:
        return work(draws, logits_BV)
    except Exception as failure:
        if len(draws) == 1:
            return [failure]
        return [result for row, each in enumerate(draws) for result in _apart(work, [each], logits_BV[row : row + 1])]


def history(draws: Sequence[Draw], device: torch.device) -> History:
    """What each draw has before it."""
    tokens = [torch.tensor(each.reply.tokens + each.reply.proposals[: each.ahead]) for each in draws]
    tokens_BL = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=-1)
    return History(tokens_BL.to(device), torch.tensor([each.reply.prompt_length for each in draws], device=device))


def _logprobs(logits_BV: Tensor, tokens_B: Tensor, num_top: int) -> tuple[list[float], list[Alternatives]]:
    logprob_B, top_ids_BN, top_BN = draw.logprobs(logits_BV, tokens_B, num_top)
    return logprob_B.tolist(), [tuple(zip(ids, values)) for ids, values in zip(top_ids_BN.tolist(), top_BN.tolist())]


def _numbers(draws: Sequence[Draw]) -> Tensor:
    return draw.uniforms(torch.tensor([each.reply.seed for each in draws]), torch.tensor([each.step for each in draws]))
