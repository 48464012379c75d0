"""A trained Transformer made to take more ids, or longer sequences.

Shape legend: V ids, D model width. A network flows in and is changed in place. Must not know tokenizers, files or training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from framework.networks.base import Network
from framework.networks.shape import RotaryScaling
from framework.networks.transformer import Transformer

ScalingKind = Literal["linear", "llama3", "yarn"]


@torch.no_grad()
def add_ids(network: Network, num_new: int, vocab_size: int) -> None:
    """Give the last `num_new` of `vocab_size` ids first rows in the tables; all other rows and all hidden states stay, to the bit.

    A row is the mean of the rows before the new ones (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models"):
    whatever the hidden state, a new id is then no likelier than the average old one, so that the old ids keep nearly all they had.

    Args:
        network: a Transformer; one whose tables have more rows than its tokenizer had ids gives those away first.
        num_new: how many ids are new.
        vocab_size: ids of the tokenizer, the new ones included and last.

    Raises:
        ValueError: another kind of network, or ids that would begin after the end of its tables.
    """
    known = vocab_size - num_new
    if not isinstance(network, Transformer):
        raise ValueError(f"only a Transformer can take new tokens, and this network is a {type(network).__name__}")
    if not 0 < known <= network.vocab_size:
        raise ValueError(f"the new tokens would begin at id {known}, and the network has {network.vocab_size} ids: another tokenizer's")
    network.vocab_size = max(network.vocab_size, vocab_size)
    network.num_rows = -(-network.vocab_size // network.vocab_multiple) * network.vocab_multiple
    for table in (network.embedding, network.head):
        if table is not None:
            table.weight = nn.Parameter(_longer(table.weight, known, vocab_size, network.num_rows), table.weight.requires_grad)
    network.embedding.num_embeddings = network.num_rows
    if network.head is not None:
        network.head.out_features = network.num_rows


def _longer(weight_VD: Tensor, known: int, vocab_size: int, num_rows: int) -> Tensor:
    """The table with the mean of its first `known` rows from there to `vocab_size`, and zeros where it had no rows."""
    longer_VD = weight_VD.new_zeros(num_rows, weight_VD.shape[1])
    longer_VD[: len(weight_VD)] = weight_VD
    longer_VD[known:vocab_size] = weight_VD[:known].mean(0, dtype=torch.float64).to(weight_VD.dtype)
    return longer_VD


def lengthen(network: Network, context_length: int, kind: ScalingKind | None = None) -> None:
    """Let a network take sequences longer than those it was trained on, by slowing its rotary positions down.

    The factor is the ratio of the lengths; a network that is slowed down already is slowed down further, in its own way. It computes
    something else for short sequences too (but little with yarn and llama3, which keep fast frequencies): train it on long ones after.

    Args:
        network: a Transformer with rotary positions.
        context_length: longest sequence from now on.
        kind: of `RotaryScaling`; None: the network's own, or yarn, which needs the least training (Peng et al. 2023).

    Raises:
        ValueError: there is nothing to lengthen, positions are not rotary, or they are slowed down in another way.
    """
    if not isinstance(network, Transformer) or network.shape.positions != "rotary":
        what = "learned positions" if isinstance(network, Transformer) else f"a {type(network).__name__}"
        raise ValueError(f"only rotary positions can be scaled to a longer context, and this network has {what}: leave context_length out")
    trained, scaling = network.context_length, network.shape.rotary_scaling
    if context_length <= trained:
        raise ValueError(f"context_length {context_length} is not longer than the network's own {trained}: leave it out")
    if scaling is None:
        scaling = RotaryScaling(kind or "yarn", context_length / trained, None if kind == "linear" else trained)
    elif kind in (None, scaling.kind):
        scaling = replace(scaling, factor=scaling.factor * context_length / trained)
    else:
        raise ValueError(f"its positions are scaled by {scaling.kind} already: leave rotary_scaling {kind} out, to scale them further so")
    network.shape = replace(network.shape, rotary_scaling=scaling)
    network.context_length = context_length
