"""The shape of a Transformer: everything that decides its parameters and its arithmetic, save vocabulary and context.

A value object: no tensors, no torch. Must not know how the network is trained, run or stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FeedForwardKind = Literal["gelu", "gelu_tanh", "relu", "relu2", "swiglu", "geglu"]
GATED: tuple[FeedForwardKind, ...] = ("swiglu", "geglu")


@dataclass(frozen=True)
class NetworkShape:
    """Shape of a decoder-only Transformer with pre-norm blocks: GPT-2, Llama, Mistral, Qwen and SmolLM among others.

    Args:
        num_layers: blocks of attention and feed-forward.
        width: numbers in a token's hidden state.
        num_heads: attention heads (query heads).
        num_kv_heads: key-value heads, each shared by num_heads / num_kv_heads query heads; null: num_heads.
        head_width: numbers in a head; null: width / num_heads.
        feedforward: activation; gelu is exact, gelu_tanh GPT-2's; swiglu (SiLU) and geglu (exact GELU) are gated by a third matrix.
        feedforward_width: inner width; null: 4 width, or 8/3 width rounded up to a multiple of 64 when gated (the same size).
        norm: LayerNorm, or RMSNorm (no mean, no bias).
        norm_eps: added to the variance; 1e-5 in GPT-2 and Llama-2.
        positions: a learned table (no further than the trained context) or rotary.
        rotary_theta: base of the rotary wavelengths; larger for longer contexts.
        qkv_bias: biases on queries, keys and values (GPT-2, Qwen2).
        out_bias: bias on the attention's output (GPT-2).
        feedforward_bias: biases in the feed-forward (GPT-2).
        norm_bias: biases in LayerNorms (GPT-2).
        qk_norm: normalise queries and keys of each head before rotation (Qwen3): steadier at high learning rates.
        tied_embeddings: the output matrix is the embedding table: fewer parameters, usual for small networks.
        dropout: probability, at GPT-2's places: embeddings, attention weights, outputs of attention and feed-forward.
        sliding_window: a token attends to this many tokens, itself included; null: to all earlier ones.
    """

    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int | None = None
    head_width: int | None = None
    feedforward: FeedForwardKind = "gelu"
    feedforward_width: int | None = None
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-5
    positions: Literal["learned", "rotary"] = "learned"
    rotary_theta: float = 10000.0
    qkv_bias: bool = False
    out_bias: bool = False
    feedforward_bias: bool = False
    norm_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = True
    dropout: float = 0.0
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        sizes = ("num_layers", "width", "num_heads", "num_kv_heads", "head_width", "feedforward_width", "sliding_window")
        for name in sizes:
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} is {size}; it must be at least 1")
        if self.head_width is None and self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not divisible by num_heads {self.num_heads}; change one or give head_width")
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.kv_heads}")
        if self.positions == "rotary" and self.query_width % 2:
            raise ValueError(f"rotary positions turn pairs of numbers: the head width {self.query_width} must be even")
        if self.norm == "rms" and self.norm_bias:
            raise ValueError("norm 'rms' has no bias: set norm_bias to false or norm to 'layer'")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1)")
        if self.norm_eps <= 0 or self.rotary_theta <= 0:
            raise ValueError(f"norm_eps ({self.norm_eps}) and rotary_theta ({self.rotary_theta}) must be positive")

    @property
    def kv_heads(self) -> int:
        """Key-value heads, the default filled in."""
        return self.num_kv_heads or self.num_heads

    @property
    def query_width(self) -> int:
        """Numbers in a head, the default filled in."""
        return self.head_width or self.width // self.num_heads

    @property
    def inner_width(self) -> int:
        """Feed-forward width, the default filled in."""
        if self.feedforward_width is not None:
            return self.feedforward_width
        return -(-8 * self.width // (3 * 64)) * 64 if self.feedforward in GATED else 4 * self.width
