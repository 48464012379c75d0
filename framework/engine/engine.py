"""The generation engine: requests of ids go in, a token event a request comes out of each step.

Shape legend: B one row, T new tokens, D model width, V vocabulary. Knows no text; must not know where requests come from.
Each request has a cache of its own and is advanced in turn, which is simple and right; batching them together changes this file only.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from framework.engine.reply import Reply
from framework.engine.request import Event, Request
from framework.networks.base import Network
from framework.networks.cache import Cache
from framework.registry import Registry, registry

log = logging.getLogger(__name__)

FAMILIES = ("tokenizers", "optimizers", "schedulers", "samplers", "recipes")


class Engine:
    """Serves any number of requests on one network; a request's reply never depends on its neighbours.

        engine = Engine(network)
        for event in engine.stream(Request(prompt_ids=[1, 2, 3], max_new_tokens=20)):
            print(event.token_id)

    Either `add` requests and call `step` until all have finished, or `stream` them; both may be mixed.

    Args:
        network: is used as it is, on the device where it is, in evaluation mode during a step, and never changed.
    """

    registries: ClassVar[Mapping[str, Registry]] = MappingProxyType({name: registry(f"framework.{name}") for name in FAMILIES})

    def __init__(self, network: Network) -> None:
        self.network = network
        self._active: dict[int, tuple[Reply, Cache | None]] = {}
        self._streamed: dict[int, deque[Event | Exception]] = {}
        self._outcomes: deque[Event | Exception] = deque()  # of requests that are not streamed, until `step` hands them out
        self._next_id = 0
        self._said_no_cache = False

    @property
    def num_active(self) -> int:
        """Requests that have not finished."""
        return len(self._active)

    def add(self, request: Request) -> int:
        """Take in a request; its id, which its events carry. Raises RequestError for one that does not fit the network."""
        num_new_tokens = request.num_new_tokens(self.network.vocab_size, self.network.context_length)
        request_id, self._next_id = self._next_id, self._next_id + 1
        device = self.network.head_weight_VD.device
        with torch.inference_mode():
            reply = Reply(request_id, request, num_new_tokens, device)
            cache = self.network.new_cache(1, len(request.prompt_ids) + num_new_tokens)
        if cache is None and not self._said_no_cache:
            self._said_no_cache = True
            log.warning("%s has no cache: every token costs a pass over the whole sequence", type(self.network).__name__)
        self._active[request_id] = reply, cache
        return request_id

    def step(self) -> list[Event]:
        """Advance every active request by one token; the events of those that are not streamed, in the order they were added.

        A request that fails (a sampler that raises, logits that are not finite) is dropped; its error is raised here or by its
        stream, and costs no other request an event.
        """
        self._advance_all()
        events: list[Event] = []
        while self._outcomes:
            outcome = self._outcomes.popleft()
            if isinstance(outcome, Exception):
                self._outcomes.extendleft(reversed(events))
                raise outcome
            events.append(outcome)
        return events

    def stream(self, request: Request) -> Generator[Event, None, None]:
        """Add a request and yield its events as they come, stepping the engine as needed; closing the iterator cancels it."""
        request_id = self.add(request)
        self._streamed[request_id] = deque()
        return self._drain(request_id)

    def cancel(self, request_id: int) -> None:
        """Drop a request and its events; nothing happens if it has finished."""
        self._active.pop(request_id, None)
        self._streamed.pop(request_id, None)
        self._outcomes = deque(outcome for outcome in self._outcomes if isinstance(outcome, Exception) or outcome.request_id != request_id)

    def _drain(self, request_id: int) -> Generator[Event, None, None]:
        finished = False
        try:
            while not finished and request_id in self._streamed:
                outcomes = self._streamed[request_id]
                if not outcomes:
                    self._advance_all()
                outcome = outcomes.popleft()
                if isinstance(outcome, Exception):
                    raise outcome
                finished = outcome.finish_reason is not None
                yield outcome
        finally:
            self.cancel(request_id)

    @torch.inference_mode()
    def _advance_all(self) -> None:
        with evaluating(self.network):
            for request_id, (reply, cache) in list(self._active.items()):
                outcome: Event | Exception
                try:
                    outcome = reply.draw(self._next_logits(reply, cache))
                except Exception as failure:  # whatever a plugin's sampler or network raises is this request's alone
                    outcome = failure
                if isinstance(outcome, Exception) or outcome.finish_reason is not None:
                    self._active.pop(request_id, None)
                self._streamed.get(request_id, self._outcomes).append(outcome)

    def _next_logits(self, reply: Reply, cache: Cache | None) -> Tensor:
        """Logits after the last token, [1, V]: from the tokens that the cache lacks (the whole prompt at first)."""
        new_BT = reply.tokens_BL if cache is None else reply.tokens_BL[:, cache.length :]
        hidden_BTD: Tensor = self.network(new_BT, cache=cache)
        return self.network.logits(hidden_BTD[:, -1])


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module is in the mode it was in, frozen ones included."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
