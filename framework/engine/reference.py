"""The slow, obvious generator: the oracle that the engine is tested against.

Shape legend: T tokens, D model width. One request at a time, no cache, the whole sequence through the network for every token.
Knows no text; must not know the engine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from framework.engine.reply import Reply
from framework.engine.request import Event, Request
from framework.networks.base import Network


@torch.inference_mode()
def generate(network: Network, request: Request) -> list[Event]:
    """All events of a request, as request number 0. The network must be in evaluation mode."""
    num_new_tokens = request.num_new_tokens(network.vocab_size, network.context_length)
    reply = Reply(0, request, num_new_tokens, network.head_weight_VD.device)
    events: list[Event] = []
    while not events or events[-1].finish_reason is None:
        hidden_BTD: Tensor = network(reply.tokens_BL)
        events.append(reply.draw(network.logits(hidden_BTD[:, -1])))
    return events
