"""What networks around another network share: they read, write and cache as that one does. Must not know what is added to it.

Shape legend: B batch, T time, N some of the tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from framework.networks.base import Network, Places
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
        places: Places | None = None,
    ) -> Tensor:
        """Hidden states, [B, T, D]; with `places`, and so without a cache, those of some tokens, [N, D]."""
        if places is not None:
            return self.inner.hidden_at(places, ids_BT, positions_BT, documents_BT)
        hidden_BTD: Tensor = self.inner(ids_BT, positions_BT, documents_BT, cache)
        return hidden_BTD

    def hidden_at(self, places: Places, ids_BT: Tensor, positions_BT: Tensor | None = None, documents_BT: Tensor | None = None) -> Tensor:
        if type(self).forward is not Wrapper.forward:  # a subclass has its own way
            return super().hidden_at(places, ids_BT, positions_BT, documents_BT)
        hidden_ND: Tensor = self(ids_BT, positions_BT, documents_BT, places=places)  # hooks of this module see it
        return hidden_ND

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
