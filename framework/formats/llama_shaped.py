"""What the families of Llama's shape share: rotary positions (half-split, as ours), RMSNorm, gated feed-forward, grouped heads.

A family declares its differences: the fields of its config, what it settles, whether it keeps matrices fused. Must not know files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from framework.formats.base import Entry, Format, Sizes, refuse, required, unexpressed
from framework.formats.fields import Fields, Widths
from framework.networks.shape import NetworkShape

SETTLED = {"norm": "rms", "positions": "rotary"}
DEFAULTS = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False}
COMPUTED = {"attention_dropout": (0, None)}  # ours drops at GPT-2's places


class LlamaShaped(Format):
    """A family of Llama's shape.

    Attributes:
        fields: what its config.json says beside sizes.
        settled: fields of NetworkShape that have one value in this family, beside those of all families.
        defaults: what transformers takes for fields that a config.json lacks, where it is another value than in all families.
        computed: fields of config.json that change the function and are not read, and the values that we compute.
        is_fused: query, key and value are one tensor of theirs, gate and up another (Phi-3).
    """

    fields: ClassVar[tuple[Fields, ...]]
    settled: ClassVar[Mapping[str, Any]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    computed: ClassVar[Mapping[str, Sequence[Any]]] = {}
    is_fused: ClassVar[bool] = False
    embedding = "model.embed_tokens.weight"
    disregarded = (r"\.rotary_emb\.inv_freq$",)  # a table that old files hold

    def objections(self, shape: NetworkShape) -> list[str]:
        """What this family has no way to say."""
        said = {"dropout", *(name for fields in self._fields() for name in fields.ours)}  # a config of this shape has no dropout of ours
        found = [objection for fields in self._fields() for objection in fields.objections(shape)]
        return unexpressed(shape, said, {**SETTLED, **self.settled}) + found

    def to_config(self, sizes: Sizes) -> dict[str, Any]:
        """The family's fields."""
        config: dict[str, Any] = {"vocab_size": sizes.vocab_size, "max_position_embeddings": sizes.context_length}
        for fields in self._fields():
            config |= fields.write(sizes.shape)
        return config

    def from_config(self, config: Mapping[str, Any]) -> Sizes:
        """From the family's fields; those that change the function must have a value we compute."""
        refuse(config, {**COMPUTED, **self.computed})
        given = {name: value for name, value in config.items() if value is not None or name not in DEFAULTS}
        config = {**DEFAULTS, **self.defaults, **given}
        found: dict[str, Any] = {}
        for fields in self._fields():
            found |= fields.read(config)
        if found.get("sliding_window") is None:
            found.pop("local_rotary_theta", None)  # of layers that there are none of
        shape = NetworkShape(**{**SETTLED, **self.settled, **found})
        return Sizes(shape, required(config, "vocab_size"), required(config, "max_position_embeddings"))

    def table(self, sizes: Sizes) -> Iterator[Entry]:
        """The family's tensors, in the order of the forward pass."""
        shape, width = sizes.shape, sizes.shape.width
        yield _entry("embedding.weight", self.embedding, sizes.vocab_size, width)
        for layer in range(shape.num_layers):
            ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
            yield _entry(f"{ours}attention_norm.weight", f"{theirs}input_layernorm.weight", width)
            yield from self._attention(shape, f"{ours}attention.", f"{theirs}self_attn.")
            before_feedforward = "post_attention_layernorm"
            if shape.output_norms:
                before_feedforward = "pre_feedforward_layernorm"
                yield _entry(f"{ours}attention_output_norm.weight", f"{theirs}post_attention_layernorm.weight", width)
            yield _entry(f"{ours}feedforward_norm.weight", f"{theirs}{before_feedforward}.weight", width)
            yield from self._feedforward(shape, f"{ours}feedforward.", f"{theirs}mlp.")
            if shape.output_norms:
                yield _entry(f"{ours}feedforward_output_norm.weight", f"{theirs}post_feedforward_layernorm.weight", width)
        yield _entry("norm.weight", "model.norm.weight", width)
        if not shape.tied_embeddings:
            yield _entry("head.weight", self.head, sizes.vocab_size, width)

    def _attention(self, shape: NetworkShape, ours: str, theirs: str) -> Iterator[Entry]:
        query, key = shape.num_heads * shape.query_width, shape.kv_heads * shape.query_width
        parts = {"qkv": query + 2 * key} if self.is_fused else {"q": query, "k": key, "v": key}
        rows, names = tuple(parts.values()), [f"{theirs}{part}_proj" for part in parts]
        has_bias = shape.qkv_bias or shape.out_bias
        has_out_bias = has_bias and "out_bias" in (name for fields in self._fields() for name in fields.ours)
        yield Entry(f"{ours}qkv.weight", (sum(rows), shape.width), tuple(f"{name}.weight" for name in names), rows)
        if has_bias:
            biases = tuple(f"{name}.bias" for name in names)
            yield Entry(f"{ours}qkv.bias", (sum(rows),), biases, rows, absent=not shape.qkv_bias)
        if shape.qk_norm:
            yield _entry(f"{ours}query_norm.weight", f"{theirs}q_norm.weight", shape.query_width)
            yield _entry(f"{ours}key_norm.weight", f"{theirs}k_norm.weight", shape.query_width)
        yield _entry(f"{ours}out.weight", f"{theirs}o_proj.weight", shape.width, query)
        if has_out_bias:
            yield _entry(f"{ours}out.bias", f"{theirs}o_proj.bias", shape.width, present=shape.out_bias)

    def _feedforward(self, shape: NetworkShape, ours: str, theirs: str) -> Iterator[Entry]:
        width, inner = shape.width, shape.inner_width
        if self.is_fused:
            joined = f"{theirs}gate_up_proj.weight"
            yield Entry(f"{ours}gate.weight", (2 * inner, width), (joined,), (2 * inner,), further=(f"{ours}up.weight",))
            yield _entry(f"{ours}down.weight", f"{theirs}down_proj.weight", width, inner)
            return
        for part, size in {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}.items():
            yield _entry(f"{ours}{part}.weight", f"{theirs}{part}_proj.weight", *size)
            if shape.feedforward_bias:
                yield _entry(f"{ours}{part}.bias", f"{theirs}{part}_proj.bias", size[0])

    def _fields(self) -> tuple[Fields, ...]:
        return (Widths(), *self.fields)


def _entry(ours: str, theirs: str, *size: int, present: bool = True) -> Entry:
    return Entry(ours, size, (theirs,), size[:1], absent=not present)
