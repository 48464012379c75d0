"""What every network is: ids to hidden states, hidden states to logits; with a cache where it can decode step by step.

Shape legend: B batch, T time, N some of the tokens, D model width, V vocabulary.
Ids flow in, hidden states flow out; losses and samplers take it from there. Must not know text, tokenizers, losses or optimizers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

from torch import Tensor, nn

from framework.networks.cache import BLOCK_TOKENS, Cache, View
from framework.networks.dot_product import soft_capped
from framework.networks.linear import linear

Role = Literal["matrix", "embedding", "vector"]
Places = tuple[Tensor, Tensor]  # row and column of tokens, [N] each


class Network(nn.Module, ABC):
    """A causal language model.

    Attributes:
        vocab_size: ids are in [0, vocab_size); rows that pad the embedding for speed are not counted and never seen outside.
        context_length: longest sequence it takes, in tokens.
    """

    vocab_size: int
    context_length: int

    @abstractmethod
    def forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: View | None = None,
    ) -> Tensor:
        """Hidden states after the final norm, [B, T, D].

        Args:
            ids_BT: token ids.
            positions_BT: position of each token in its sequence; None counts from 0, with a cache from what it holds.
            documents_BT: a token attends only to earlier tokens with the same number; None lets it attend to all earlier ones.
            cache: the sequences that these tokens, [1, T], go on with, one after the other; their keys and values are stored.
        """

    def hidden_at(self, places: Places, ids_BT: Tensor, positions_BT: Tensor | None = None, documents_BT: Tensor | None = None) -> Tensor:
        """Hidden states of some of the tokens, [N, D]: all that a loss reads which trains only those.

        They are `forward`'s, dropout included; a network may override this to leave out what only the other tokens' need.

        Args:
            places: the tokens.
            ids_BT, positions_BT, documents_BT: all of them, as of `forward`.
        """
        hidden_BTD: Tensor = self(ids_BT, positions_BT, documents_BT)
        return hidden_BTD[places]

    @property
    @abstractmethod
    def head_weight_VD(self) -> Tensor:
        """The output matrix: exactly vocab_size rows. Losses use it directly, so that full logits are never kept."""

    @property
    def logit_softcap(self) -> float | None:
        """What the products with the output matrix are capped with (Gemma 2); losses take it with the matrix. None: nothing."""
        return None

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Logits over the vocabulary, [B, T, V] (any leading shape); rows that pad the embedding do not appear."""
        return soft_capped(linear(hidden_BTD, self.head_weight_VD), self.logit_softcap)

    @property
    @abstractmethod
    def init_args(self) -> dict[str, Any]:
        """Arguments, as plain JSON values, from which the class builds this network again, sizes included.

        A model directory keeps them. What only says how the network is run (compiled, checkpointed) may be left out.
        """

    def new_cache(self, num_blocks: int, block_tokens: int = BLOCK_TOKENS) -> Cache | None:
        """Memory for the keys and values of `num_blocks` blocks of tokens; None for a network that cannot use one."""
        return None

    def roles(self) -> dict[str, Role]:
        """What each parameter is to the optimizer: embedding tables and output heads, other matrices, and vectors (norms, biases).

        Names are those of `named_parameters()`: a tied table occurs once.
        """
        tables = {id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)}
        return {
            name: "embedding" if id(parameter) in tables else "matrix" if parameter.ndim >= 2 else "vector"
            for name, parameter in self.named_parameters()
        }

    def num_parameters(self) -> int:
        """Parameters, tied ones counted once, padding rows of the vocabulary not counted."""
        return sum(parameter.numel() for parameter in self.parameters())

    @abstractmethod
    def flops_per_token(self, length: int) -> int:
        """Floating-point operations of one training token (forward and backward) in a sequence of `length` tokens.

        6 N + 12 L H Q T (PaLM, appendix B), N leaving out embedding tables that do no product.
        """
