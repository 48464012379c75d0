"""One Transformer for the GPT-2, Llama and Gemma families, built from a NetworkShape.

Shape legend: B batch, T time, N some of the tokens, D model width, V vocabulary.
Ids flow in, normalised hidden states flow out. Must not know text, losses, optimizers or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from framework.networks import blocks
from framework.networks.attention import Attention, Rotation, attention_mask, rotation
from framework.networks.base import Network, Places, Role
from framework.networks.cache import BLOCK_TOKENS, Cache, View
from framework.networks.feedforward import FeedForward
from framework.networks.initialise import initialise
from framework.networks.linear import Linear
from framework.networks.norm import Norm
from framework.networks.shape import NetworkShape


class Reach(NamedTuple):
    """What layers of one kind are told of a forward's positions.

    Attributes:
        turn: their rotation; None leaves positions out.
        mask: what each token sees, from `attention_mask`.
    """

    turn: Rotation | None
    mask: Tensor | None


class Block(nn.Module):
    """x + attention(norm x), then x + feedforward(norm x); with output norms, x + norm(attention(norm x)) and so on."""

    def __init__(self, shape: NetworkShape, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = Norm(shape, shape.width)
        self.attention = Attention(shape, layer)
        self.attention_output_norm = Norm(shape, shape.width) if shape.output_norms else None
        self.feedforward_norm = Norm(shape, shape.width)
        self.feedforward = FeedForward(shape)
        self.feedforward_output_norm = Norm(shape, shape.width) if shape.output_norms else None

    def forward(
        self, hidden_BTD: Tensor, turn: Rotation | None, mask: Tensor | None, cache: View | None, places: Places | None = None
    ) -> Tensor:
        """The tokens' hidden states after this block, [B, T, D]; with `places` of those only, [N, D]."""
        mixed_BTD = self.attention(self.attention_norm(hidden_BTD), turn, mask, cache, self.layer, places)
        if places is not None:
            hidden_BTD = hidden_BTD[places]
        hidden_BTD = hidden_BTD + (mixed_BTD if self.attention_output_norm is None else self.attention_output_norm(mixed_BTD))
        bent_BTD = self.feedforward(self.feedforward_norm(hidden_BTD))
        return hidden_BTD + (bent_BTD if self.feedforward_output_norm is None else self.feedforward_output_norm(bent_BTD))


class Transformer(Network):
    """A decoder-only Transformer.

    Args:
        shape: layers, widths, heads and kinds.
        vocab_size: number of ids; null: the tokenizer's.
        context_length: longest sequence in tokens; null: the data's.
        vocab_multiple: the tables get rows up to a multiple of this, which no one outside sees. 1 costs nothing here, because the chunked
            loss aligns its own logits; 64 and more serve tensor-parallel splits.
        activation_checkpointing: recompute each block's activations in the backward pass: a third more work, far less memory.
        compile: compile the blocks with torch.compile when no cache is used: faster after a wait of up to minutes.
        published_as: the name in framework.formats whose form its files have, where several express it; null: the first that does.
    """

    def __init__(
        self,
        shape: NetworkShape,
        vocab_size: int | None = None,
        context_length: int | None = None,
        vocab_multiple: int = 1,
        activation_checkpointing: bool = False,
        compile: bool = False,
        published_as: str | None = None,
    ) -> None:
        super().__init__()
        if vocab_size is None or context_length is None:
            raise ValueError("a network needs vocab_size (the tokenizer's) and context_length (the data's)")
        if min(vocab_size, context_length, vocab_multiple) < 1:
            raise ValueError(
                f"vocab_size ({vocab_size}), context_length ({context_length}), vocab_multiple ({vocab_multiple}) must be positive"
            )
        self.vocab_size, self.context_length, self.vocab_multiple = vocab_size, context_length, vocab_multiple
        self.shape, self.published_as = shape, published_as
        self.activation_checkpointing, self.compiled = activation_checkpointing, compile
        self.num_rows = -(-vocab_size // vocab_multiple) * vocab_multiple
        device = torch.get_default_device()
        with torch.device("meta"):  # modules would draw first values of their own: in vain, and the more the larger the padding
            self.embedding = nn.Embedding(self.num_rows, shape.width)
            self.position_embedding = nn.Embedding(context_length, shape.width) if shape.positions == "learned" else None
            self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.num_layers))
            self.norm = Norm(shape, shape.width)
            self.head = None if shape.tied_embeddings else Linear(shape.width, self.num_rows, bias=False)
        self.to_empty(device=device)
        initialise(self, shape, vocab_size)
        if compile:
            for block in self.blocks:
                block.compile()  # in place, block by block: names stay, one compilation serves all layers, copies run uncompiled

    @property
    def shape(self) -> NetworkShape:
        """Another one may be set that scales rotary positions otherwise; the parameters stay."""
        return self._shape

    @shape.setter
    def shape(self, shape: NetworkShape) -> None:
        every = [shape.layer_kind(layer) for layer in range(shape.num_layers)]
        self._shape, self._kinds = shape, list(dict.fromkeys(every))
        self._kind_of_layer = [self._kinds.index(kind) for kind in every]

    def forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: View | None = None,
        places: Places | None = None,
    ) -> Tensor:
        """Hidden states, [B, T, D]; with `places` those of some tokens, [N, D]."""
        num_tokens = ids_BT.shape[1]
        longest = num_tokens if cache is None else cache.end
        if longest > self.context_length:
            raise ValueError(f"{longest} tokens are more than the context length {self.context_length}")
        if cache is not None and documents_BT is not None:
            raise ValueError("a cache holds one document a sequence: documents_BT cannot be given with it")
        if positions_BT is None:
            positions_BT = torch.arange(num_tokens, device=ids_BT.device)[None] if cache is None else cache.positions_BT
        hidden_BTD = self._embed(ids_BT, positions_BT)
        hidden_BTD = self._run_blocks(hidden_BTD, self._reaches(hidden_BTD, positions_BT, documents_BT, cache), cache, places)
        normalised: Tensor = self.norm(hidden_BTD)
        return normalised

    def hidden_at(self, places: Places, ids_BT: Tensor, positions_BT: Tensor | None = None, documents_BT: Tensor | None = None) -> Tensor:
        """Without the last block's feed-forward, output matrix and norms for the other tokens, which no one reads."""
        if type(self).forward is not Transformer.forward:  # a subclass has its own way
            return super().hidden_at(places, ids_BT, positions_BT, documents_BT)
        hidden_ND: Tensor = self(ids_BT, positions_BT, documents_BT, places=places)  # hooks of this module see it
        return hidden_ND

    def _embed(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        hidden_BTD: Tensor = self.embedding(ids_BT)
        if self.position_embedding is not None:
            hidden_BTD = hidden_BTD + self.position_embedding(positions_BT)
        if self.shape.scaled_embeddings:  # by a number of the weights' type, as published
            hidden_BTD = hidden_BTD * hidden_BTD.new_full((), self.shape.width**0.5)
        return F.dropout(hidden_BTD, self.shape.dropout) if self.training and self.shape.dropout else hidden_BTD

    def _reaches(self, hidden_BTD: Tensor, positions_BT: Tensor, documents_BT: Tensor | None, cache: View | None) -> list[Reach]:
        """For each kind of layers."""
        reaches: list[Reach] = []
        for kind in self._kinds:
            turn = mask = None
            if kind.rotary is not None:
                theta, scaling = kind.rotary
                turn = rotation(positions_BT, self.shape.query_width, theta, hidden_BTD.dtype, scaling)
            if cache is None:
                mask = attention_mask(hidden_BTD.shape[1], documents_BT, kind.window, hidden_BTD.device)
            reaches.append(Reach(turn, mask))
        return reaches

    def _run_blocks(self, hidden_BTD: Tensor, reaches: Sequence[Reach], cache: View | None, places: Places | None) -> Tensor:
        if cache is not None and len(reaches) == 1:
            result = blocks.run(self.blocks, Block, self.shape, hidden_BTD, reaches[0].turn, cache)
            if result is not None:
                return result if places is None else result[places]
        recompute = self.activation_checkpointing and torch.is_grad_enabled()
        # a cache has another length at every step: each would compile anew
        stands_alone = self.compiled and cache is not None and not torch.compiler.is_compiling()
        with torch.compiler.set_stance("force_eager") if stands_alone else nullcontext():
            for block, kind, kept in zip(self.blocks, self._kind_of_layer, self._kept(places), strict=True):
                if recompute:
                    hidden_BTD = checkpoint(block, hidden_BTD, *reaches[kind], cache, kept, use_reentrant=False)
                else:
                    hidden_BTD = block(hidden_BTD, *reaches[kind], cache, kept)
        return hidden_BTD if places is None or hidden_BTD.ndim == 2 else hidden_BTD[places]

    def _kept(self, places: Places | None) -> list[Places | None]:
        """For each block the tokens that it goes on with; None: all. Only the last may drop some: later blocks attend to every token.

        It drops none where it is compiled (it would be anew for each number of them) or where dropout acts (whose draws would be others).
        """
        drops_none = self.compiled or (self.training and self.shape.dropout > 0)
        return [None] * (len(self.blocks) - 1) + [None if drops_none else places]

    @property
    def head_weight_VD(self) -> Tensor:
        weight: Tensor = self.embedding.weight if self.head is None else self.head.weight
        return weight if self.num_rows == self.vocab_size else weight[: self.vocab_size]

    @property
    def logit_softcap(self) -> float | None:
        return self.shape.logit_softcap

    def new_cache(self, num_blocks: int, block_tokens: int = BLOCK_TOKENS) -> Cache:
        weight, shape = self.norm.weight, self.shape
        return Cache(shape.num_layers, num_blocks, shape.kv_heads, shape.query_width, weight.dtype, weight.device, block_tokens)

    @property
    def init_args(self) -> dict[str, Any]:
        return {
            "shape": asdict(self.shape),
            "vocab_size": self.vocab_size,
            "context_length": self.context_length,
            "vocab_multiple": self.vocab_multiple,
            "published_as": self.published_as,
        }

    def roles(self) -> dict[str, Role]:
        roles = super().roles()
        return roles if self.head is None else {**roles, "head.weight": "embedding"}

    def num_parameters(self) -> int:
        tables = 1 if self.head is None else 2
        return super().num_parameters() - tables * (self.num_rows - self.vocab_size) * self.shape.width

    def flops_per_token(self, length: int) -> int:
        """6 N + 12 L H Q T: N counts the output matrix, norms and biases; not the positions, nor an embedding table of its own.

        GPT-2 at 1,024 tokens: 855,166,464. In a layer with a sliding window T is at most the window.
        """
        shape, num_parameters = self.shape, self.num_parameters()
        if self.position_embedding is not None:
            num_parameters -= self.position_embedding.weight.numel()
        if self.head is not None:
            num_parameters -= self.vocab_size * shape.width
        windows = [shape.layer_kind(layer).window for layer in range(shape.num_layers)]
        attended = sum(length if window is None else min(length, window) for window in windows)
        return 6 * num_parameters + 12 * shape.num_heads * shape.query_width * attended
