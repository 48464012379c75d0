"""The shape of a Transformer: everything that decides its parameters and its arithmetic, save vocabulary and context.

Value objects: no tensors, no torch. Must not know how the network is trained, run or stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

FeedForwardKind = Literal["gelu", "gelu_tanh", "relu", "relu2", "swiglu", "geglu", "geglu_tanh"]
NormKind = Literal["layer", "rms", "rms_plus_one"]
GATED: tuple[FeedForwardKind, ...] = ("swiglu", "geglu", "geglu_tanh")


@dataclass(frozen=True)
class RotaryScaling:
    """Rotary frequencies slowed down, so that a network takes longer sequences than it was trained on.

    Args:
        kind: linear: all alike (position interpolation, Chen et al. 2023); llama3: those whose waves were longer than the trained context
            (Llama 3.1); yarn: from untouched fast ones to fully slowed slow ones along a ramp (Peng et al. 2023).
        factor: how much longer sequences may be; slowed frequencies are divided by it.
        original_context_length: tokens of the trained context; llama3 and yarn need it.
        low_frequency_factor: llama3: waves longer than the trained context divided by this are slowed fully.
        high_frequency_factor: llama3: waves shorter than the trained context divided by this stay.
        beta_fast: yarn: pairs that turn more often than this in the trained context stay.
        beta_slow: yarn: pairs that turn less often than this are slowed fully.
        attention_factor: yarn: cosines and sines are multiplied by it; null: 0.1 ln(factor) + 1.
        truncate: yarn: the ramp begins and ends at whole pairs.
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original_context_length: int | None = None
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "llama3", "yarn"):
            raise ValueError(f"rotary_scaling is of the kind {self.kind!r}; there are linear, llama3 and yarn")
        if self.factor <= 0:
            raise ValueError(f"the factor of rotary_scaling is {self.factor}; it must be positive")
        if self.kind != "linear" and (self.original_context_length or 0) < 1:
            raise ValueError(f"rotary_scaling {self.kind} needs original_context_length, the tokens of the trained context")
        if self.kind == "llama3" and not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise ValueError(
                f"low_frequency_factor ({self.low_frequency_factor}) must be under high_frequency_factor ({self.high_frequency_factor})"
            )
        if self.kind == "yarn" and not 0 < self.beta_slow <= self.beta_fast:
            raise ValueError(f"beta_slow ({self.beta_slow}) must not be over beta_fast ({self.beta_fast})")


class LayerKind(NamedTuple):
    """What one layer may do otherwise than another of the same network.

    Attributes:
        window: tokens that a token attends to, itself included; None: all earlier ones.
        rotary: base of the rotary wavelengths, and how they are slowed down; None: the layer turns nothing.
    """

    window: int | None
    rotary: tuple[float, RotaryScaling | None] | None


@dataclass(frozen=True)
class NetworkShape:
    """Shape of a decoder-only Transformer with pre-norm blocks: GPT-2, Llama, Mistral, Qwen, SmolLM, Gemma and Phi-3 among others.

    Args:
        num_layers: blocks of attention and feed-forward.
        width: numbers in a token's hidden state.
        num_heads: attention heads (query heads).
        num_kv_heads: key-value heads, each shared by num_heads / num_kv_heads query heads; null: num_heads.
        head_width: numbers in a head; null: width / num_heads.
        feedforward: activation; gelu is exact, gelu_tanh GPT-2's; swiglu (SiLU), geglu (exact GELU) and geglu_tanh (Gemma) are gated by a
            third matrix.
        feedforward_width: inner width; null: 4 width, or 8/3 width rounded up to a multiple of 64 when gated (the same size).
        norm: LayerNorm, or RMSNorm (no mean, no bias); rms_plus_one: RMSNorm that scales by 1 + weight (Gemma).
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
        windowed_layers: the layers, from 0, that have the window; null: all of them.
        rotary_scaling: slows rotary frequencies down for longer contexts (Llama 3.1); null: as trained.
        unrotated_layers: the layers, from 0, that leave positions out (SmolLM3); null: none.
        local_rotary_theta: rotary_theta of the layers with the window, which are not scaled (Gemma 3); null: as of the others.
        output_norms: normalise the outputs of attention and feed-forward too, before they are added (Gemma 2).
        scaled_embeddings: multiply embeddings with the square root of the width (Gemma).
        attention_scale_width: scores are divided by this number's square root; null: the head's width.
        attention_softcap: scores become cap tanh(score / cap) (Gemma 2); costs the fused attention.
        logit_softcap: logits become cap tanh(logit / cap) (Gemma 2).
    """

    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int | None = None
    head_width: int | None = None
    feedforward: FeedForwardKind = "gelu"
    feedforward_width: int | None = None
    norm: NormKind = "layer"
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
    windowed_layers: tuple[int, ...] | None = None
    rotary_scaling: RotaryScaling | None = None
    unrotated_layers: tuple[int, ...] | None = None
    local_rotary_theta: float | None = None
    output_norms: bool = False
    scaled_embeddings: bool = False
    attention_scale_width: int | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None

    def __post_init__(self) -> None:
        self._take_json()
        sizes = ("num_layers", "width", "num_heads", "num_kv_heads", "head_width", "feedforward_width", "sliding_window")
        for name in (*sizes, "attention_scale_width"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} is {size}; it must be at least 1")
        if self.head_width is None and self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not divisible by num_heads {self.num_heads}; change one or give head_width")
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.kv_heads}")
        if self.positions == "rotary" and self.query_width % 2:
            raise ValueError(f"rotary positions turn pairs of numbers: the head width {self.query_width} must be even")
        if self.norm != "layer" and self.norm_bias:
            raise ValueError(f"norm {self.norm!r} has no bias: set norm_bias to false or norm to 'layer'")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1)")
        if self.norm_eps <= 0 or self.rotary_theta <= 0:
            raise ValueError(f"norm_eps ({self.norm_eps}) and rotary_theta ({self.rotary_theta}) must be positive")
        for name in ("local_rotary_theta", "attention_softcap", "logit_softcap"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be positive, or null for none")
        self._check_layers()

    def _take_json(self) -> None:
        """JSON keeps lists for tuples and objects for parts."""
        for name in ("windowed_layers", "unrotated_layers"):
            if (layers := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(layers))
        if isinstance(self.rotary_scaling, Mapping):
            object.__setattr__(self, "rotary_scaling", RotaryScaling(**self.rotary_scaling))

    def _check_layers(self) -> None:
        for name in ("windowed_layers", "unrotated_layers"):
            layers = getattr(self, name) or ()
            if any(not 0 <= layer < self.num_layers for layer in layers) or len(set(layers)) < len(layers):
                raise ValueError(f"{name} is {list(layers)}; it must name each layer once, from 0 to {self.num_layers - 1}")
        for name in ("rotary_scaling", "unrotated_layers", "local_rotary_theta"):
            if getattr(self, name) is not None and self.positions != "rotary":
                raise ValueError(f"{name} is for rotary positions, and positions are {self.positions}: set it to null")
        for name in ("windowed_layers", "local_rotary_theta"):
            if getattr(self, name) is not None and self.sliding_window is None:
                raise ValueError(f"{name} is for layers with a window: give sliding_window, or set it to null")

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

    def layer_kind(self, layer: int) -> LayerKind:
        """A layer's window and rotation."""
        is_windowed = self.sliding_window is not None and (self.windowed_layers is None or layer in self.windowed_layers)
        window = self.sliding_window if is_windowed else None
        if self.positions != "rotary" or layer in (self.unrotated_layers or ()):
            return LayerKind(window, None)
        if is_windowed and self.local_rotary_theta is not None:
            return LayerKind(window, (self.local_rotary_theta, None))
        return LayerKind(window, (self.rotary_theta, self.rotary_scaling))
