"""What networks around another network share: they read, write and cache as that one does. Must not know what is added to it.

Shape legend: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from framework.networks.base import Network
from framework.networks.cache import BLOCK_TOKENS, Cache, View


class Wrapper(Network):
    """A network whose hidden states and logits are those of the one inside."""

    @property
    @abstractmethod
    def inner(self) -> Network:
        """The network inside."""

    def forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: View | None = None,
    ) -> Tensor:
        hidden_BTD: Tensor = self.inner(ids_BT, positions_BT, documents_BT, cache)
        return hidden_BTD

    @property
    def head_weight_VD(self) -> Tensor:
        return self.inner.head_weight_VD

    @property
    def logit_softcap(self) -> float | None:
        return self.inner.logit_softcap

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        return self.inner.logits(hidden_BTD)

    def new_cache(self, num_blocks: int, block_tokens: int = BLOCK_TOKENS) -> Cache | None:
        return self.inner.new_cache(num_blocks, block_tokens)
