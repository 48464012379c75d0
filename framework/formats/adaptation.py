"""What the network of a model directory becomes before it is trained again: another type, a longer context, more tokens, fewer bits.

Plain values, which a run's configuration keeps. Must not know networks. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Adaptation:
    """What is changed about a network that a run starts from.

    Args:
        dtype: type of its weights. null: as stored where it stays frozen (LoRA), float32 where it is trained itself; never float16, whose
            gradients vanish under 6e-8. bfloat16: half the memory, and what is trained loses steps smaller than 1/256 of a weight.
        context_length: longest sequence, longer than the network's own: rotary positions are slowed down by the ratio of the two.
        rotary_scaling: how they are slowed down: yarn keeps the fast ones (Peng et al. 2023), llama3 too (Llama 3.1), linear slows all alike
            (Chen et al. 2023). null: as in the network already, else yarn.
        new_tokens: special tokens that the tokenizer gets, as its last ids; the row of each begins as the mean of the rows before.
        quantize: bits of the matrices under a LoRA: int8 or int4; the adapter is merged into the exact ones. null: as stored.
    """

    dtype: Literal["float32", "bfloat16"] | None = None
    context_length: int | None = None
    rotary_scaling: Literal["linear", "llama3", "yarn"] | None = None
    new_tokens: tuple[str, ...] = ()
    quantize: Literal["int8", "int4"] | None = None

    def __post_init__(self) -> None:
        if self.rotary_scaling is not None and self.context_length is None:
            raise ValueError(f"rotary_scaling {self.rotary_scaling} is for a longer context: give context_length too")
