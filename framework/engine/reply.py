"""One reply in the making: its tokens so far, its random generator, and how the next token is drawn.

Shape legend: B one row, L tokens so far, V vocabulary. The network's logits for the next token flow in, an event flows out.
Must not know the network, its cache, or any other request.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.engine.request import Event, FinishReason, Request
from framework.errors import RequestError
from framework.samplers.base import History


class Reply:
    """The state of a request, which engine and reference share.

    A draw takes exactly one uniform number from the request's own generator on the CPU and inverts the cumulative distribution,
    so it depends on no neighbour and on no device.

    Args:
        request_id, request: as in the events.
        num_new_tokens: the reply ends after so many tokens.
        device: where the logits will be.
    """

    def __init__(self, request_id: int, request: Request, num_new_tokens: int, device: torch.device) -> None:
        self.request_id, self.request, self.num_new_tokens = request_id, request, num_new_tokens
        self.prompt_length = self.length = len(request.prompt_ids)
        self.memory_BL = torch.full((1, self.length + num_new_tokens), -1, dtype=torch.long, device=device)
        self.memory_BL[0, : self.length] = torch.tensor(request.prompt_ids, device=device)
        self.prompt_lengths_B = torch.tensor([self.prompt_length], device=device)
        self.stop_ids = torch.tensor(sorted(request.stop_ids), dtype=torch.long, device=device)
        self.generator = torch.Generator()
        if request.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(request.seed)

    @property
    def tokens_BL(self) -> Tensor:
        """Prompt and reply so far, [1, L]."""
        return self.memory_BL[:, : self.length]

    def draw(self, logits_BV: Tensor) -> Event:
        """Draw the next token, [1, V] logits -> event, and append it."""
        logits_BV = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32))
        token = self._choose(logits_BV)
        logprob = (logits_BV[0, token] - logits_BV[0].logsumexp(dim=-1)).item()
        self.memory_BL[0, self.length] = token
        self.length += 1
        return Event(self.request_id, token, logprob, self._finish_reason(token))

    def _choose(self, logits_BV: Tensor) -> int:
        if self.length - self.prompt_length < self.request.min_new_tokens:
            logits_BV = logits_BV.index_fill(-1, self.stop_ids, -math.inf)
        history = History(self.tokens_BL, self.prompt_lengths_B)
        for sampler in self.request.samplers:
            logits_BV = sampler(logits_BV, history)
        probabilities_V = logits_BV[0].softmax(dim=-1).cpu()
        if not probabilities_V.sum() > 0:  # NaN, since a softmax is 1 or that
            raise RequestError("no token can be drawn: the network's logits are not finite, or the samplers exclude every token")
        return int(pick(probabilities_V, torch.rand((), dtype=torch.float64, generator=self.generator)))

    def _finish_reason(self, token: int) -> FinishReason | None:
        if token in self.request.stop_ids:
            return "stop"
        return "length" if self.length - self.prompt_length == self.num_new_tokens else None


def pick(probabilities_V: Tensor, uniform: Tensor) -> Tensor:
    """The tokens that uniform numbers in [0, 1) fall on when the probabilities lie side by side; never one of probability 0."""
    cumulative_V = probabilities_V.double().cumsum(dim=-1)
    # a double under 1 times the total is under the total after rounding too, so the search ends at a token with some probability
    return torch.searchsorted(cumulative_V, uniform * cumulative_V[-1], right=True)
