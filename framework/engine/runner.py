"""The network's side of a round: rows of replies in, hidden states of their new tokens out.

Shape legend: P places, M blocks of a place, R rows, T new tokens of all rows one row after the other, D model width, B of those,
V vocabulary. Owns the cache's memory and, for each place, the table of its blocks. Must not know samplers, or why a row is there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from framework.engine.batcher import Row
from framework.engine.compiled import CompiledDecode
from framework.engine.reply import Reply
from framework.kernels import pages
from framework.networks.base import Network
from framework.networks.cache import BLOCK_TOKENS

log = logging.getLogger(__name__)

version = attrgetter("_version")


class Runner:
    """Runs rounds on one network. Without a cache (the network has none) each row costs a pass over its whole sequence.

    Args:
        network: as it is; never changed.
        max_running: places.
        num_blocks: of the cache.
        compile: compile rounds of one token a row: CUDA graphs on a GPU; minutes at first.
        vocab_size: how many logits are looked at; None: all.
    """

    def __init__(self, network: Network, max_running: int, num_blocks: int, compile: bool = False, vocab_size: int | None = None) -> None:
        self.network, self.block_tokens, self.vocab_size = network, BLOCK_TOKENS, vocab_size
        with torch.inference_mode():
            self.cache = network.new_cache(num_blocks, self.block_tokens)
        if self.cache is None:
            log.warning("%s has no cache: every token costs a pass over the whole sequence", type(network).__name__)
        self._decode = CompiledDecode(network, self.cache) if compile and self.cache is not None else None
        self._tables_PM = np.zeros((max_running, -(-network.context_length // self.block_tokens)), np.int32)
        self._entered: list[tuple[list[int], int]] = [([], 0)] * max_running  # the blocks that a table shows, and how many of them
        self._hooks: int | None = None  # how many there were at the last forward, after which nothing else was changed
        self._state: tuple[int, ...] = ()
        self.look_again()
        self.has_new_weights()
        pages.gather(self._weights)

    def forward(self, rows: Sequence[Row]) -> Tensor:
        """Hidden states of the rows' new tokens, [T, D]; their keys and values are in the cache then."""
        with evaluating(self.network):
            return self._alone(rows) if self.cache is None else self._together(rows)

    def logits(self, hidden_BD: Tensor) -> Tensor:
        """Logits over the vocabulary, [B, V]."""
        with evaluating(self.network):
            return self.network.logits(hidden_BD)[:, : self.vocab_size]

    def copy_block(self, source: int, target: int) -> None:
        """Let a block hold what another one holds."""
        if self.cache is not None:
            self.cache.copy_block(source, target)

    def has_new_weights(self) -> bool:
        """Whether a weight has changed since this was asked before: through an optimizer, a loaded state or a replaced tensor.

        What is written through `.data` is not seen.
        """
        state = *map(Tensor.data_ptr, self._weights), *map(version, self._versioned)
        if state == self._state:
            return False
        self._state = state
        self.forget()
        return True

    def look_again(self) -> None:
        """The network's modules may be others now, and its weights other tensors, or elsewhere."""
        self._weights = [*self.network.parameters(), *self.network.buffers()]
        self._versioned = [weight for weight in self._weights if not weight.is_inference()]  # whose changes torch counts
        self.device = self._weights[0].device
        self.forget()

    def forget(self) -> None:
        """Read the network's modules anew in the next forward, and hold nothing that they have made until then."""
        self._hooks = None
        if self.cache is not None:
            self.cache.layers = None

    def _together(self, rows: Sequence[Row]) -> Tensor:
        assert self.cache is not None
        for row in rows:
            self._update_table(row.reply)
        width = max(len(row.reply.blocks) for row in rows)
        tables_RM = torch.from_numpy(self._tables_PM[[row.reply.place for row in rows], :width])
        lengths, counts = [row.reply.num_held for row in rows], [row.num_tokens for row in rows]
        hooks = RemovableHandle.next_id  # torch counts all that are ever registered
        view = self.cache.view(tables_RM, lengths, counts, unchanged=self._hooks == hooks)
        self._hooks = hooks
        ids = [token for row in rows for token in new_tokens(row)]
        if self._decode is not None and len(ids) == len(rows):
            return self._decode(ids, view)
        hidden_BTD: Tensor = self.network(torch.tensor([ids], device=self.device), cache=view)
        return hidden_BTD[0]

    def _alone(self, rows: Sequence[Row]) -> Tensor:
        hidden_TD = []
        for row in rows:
            ids = row.reply.tokens[: row.reply.num_held] + new_tokens(row)
            hidden_TD.append(self.network(torch.tensor([ids], device=self.device))[0, -row.num_tokens :])
        return torch.cat(hidden_TD)

    def _update_table(self, reply: Reply) -> None:
        shown, count = self._entered[reply.place]
        if shown is not reply.blocks:  # another reply, or one that runs anew
            count = 0
        if count < len(reply.blocks):
            self._tables_PM[reply.place, count : len(reply.blocks)] = reply.blocks[count:]
            self._entered[reply.place] = reply.blocks, len(reply.blocks)


def new_tokens(row: Row) -> list[int]:
    """The tokens of a row that the network has yet to see, in order."""
    reply = row.reply
    tokens = reply.tokens[reply.num_held : reply.num_held + row.num_tokens]
    return tokens + reply.proposals[: row.num_tokens - len(tokens)]


def evaluating(network: nn.Module) -> AbstractContextManager[None]:
    """Evaluation mode inside the block; afterwards every module is in the mode it was in, frozen ones included."""
    return _evaluating(network) if network.training else nullcontext()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
