"""An adapter's own rows of the vocabulary's tables, for tokens that the frozen base never saw. lora.py decides when they are in use.

Frozen, the rows of new tokens would stay alike: none of them could mean, or be written, otherwise than the next.

Shape legend: V ids, K new ids, D model width. Must not know other layers, tokenizers or files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.networks.base import Network
from framework.networks.resize import add_ids
from framework.networks.transformer import Transformer


class NewRows(nn.Module):
    """What an adapter has in the place of the base's rows of some ids.

    Args:
        first: the first of these ids; the others follow it.
        rows_KD: of the embedding table, and of the output matrix where the two are one; they become a parameter.
        head_rows_KD: of an output matrix of its own; None where there is none.
    """

    def __init__(self, first: int, rows_KD: Tensor, head_rows_KD: Tensor | None = None) -> None:
        super().__init__()
        self.first, self.rows_KD = first, nn.Parameter(rows_KD)
        self.head_rows_KD = None if head_rows_KD is None else nn.Parameter(head_rows_KD)
        self._head: tuple[list[tuple[int, int]], Tensor] | None = None  # what it was made from, and the matrix

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_head": None}  # a copy makes its own

    @property
    def ids(self) -> range:
        """The ids."""
        return range(self.first, self.first + len(self.rows_KD))

    def embedded(self, weight_VD: Tensor) -> Tensor:
        """An embedding table with these rows in it."""
        return self._placed(weight_VD, self.rows_KD)

    def output_matrix(self, weight_VD: Tensor) -> Tensor:
        """An output matrix with these rows in it; kept, where no gradient is asked for, until one of them changes."""
        rows_KD = self.rows_KD if self.head_rows_KD is None else self.head_rows_KD
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._placed(weight_VD, rows_KD)
        stamp = [(part.data_ptr(), 0 if part.is_inference() else part._version) for part in (weight_VD, rows_KD)]
        if self._head is None or self._head[0] != stamp:
            self._head = stamp, self._placed(weight_VD, rows_KD)
        return self._head[1]

    def _placed(self, weight_VD: Tensor, rows_KD: Tensor) -> Tensor:
        return torch.cat([weight_VD[: self.first], rows_KD.to(weight_VD.dtype), weight_VD[self.ids.stop :]])


class AdaptedEmbedding(nn.Embedding):
    """In the place of an `nn.Embedding`, whose table it takes over; at most one of its adapters is in use.

    Attributes:
        adapters: by name.
        in_use: name of the one whose rows are looked up; there need not be one.
    """

    def __init__(self, given: nn.Embedding) -> None:
        super().__init__(given.num_embeddings, given.embedding_dim, device="meta")
        self.weight = given.weight
        self.adapters = nn.ModuleDict()
        self.in_use: str | None = None
        self.train(given.training)

    @property
    def adapter(self) -> NewRows | None:
        """The adapter in use; None if there is none, or it has no rows."""
        adapters = self._modules["adapters"]
        assert adapters is not None
        return None if self.in_use is None else adapters._modules.get(self.in_use)  # type: ignore[return-value]

    def forward(self, input: Tensor) -> Tensor:
        found, adapter = super().forward(input), self.adapter
        if adapter is None:
            return found
        places = input - adapter.first
        is_new = (places >= 0) & (places < len(adapter.rows_KD))
        new = F.embedding(torch.where(is_new, places, 0), adapter.rows_KD).to(found.dtype)
        return torch.where(is_new[..., None], new, found)


def make_room(network: Network, ids: range) -> None:
    """Let a network's embedding take adapters, each id beginning as `add_ids` has it. Raises ValueError where it cannot."""
    if not isinstance(network, Transformer) or ids.start < 1:
        raise ValueError(f"{len(ids)} new ids are too many, or a {type(network).__name__} has no tables for them: only a Transformer does")
    add_ids(network, len(ids), ids.stop)
    network.embedding = AdaptedEmbedding(network.embedding)


def adapters(network: Network) -> dict[str, NewRows]:
    """The rows of each adapter, by its name; none for a network without room for them."""
    embedding = network.embedding if isinstance(network, Transformer) else None
    return dict(embedding.adapters.items()) if isinstance(embedding, AdaptedEmbedding) else {}  # type: ignore[arg-type]


def first(network: Network, ids: range) -> NewRows:
    """Rows as the network has them, at least in fp32."""
    assert isinstance(network, Transformer)
    rows = [
        None
        if table is None
        else table.weight[ids.start : ids.stop].detach().to(torch.promote_types(table.weight.dtype, torch.float32), copy=True)
        for table in (network.embedding, network.head)
    ]
    assert rows[0] is not None
    return NewRows(ids.start, rows[0], rows[1])


def put(network: Network, name: str, rows: NewRows) -> None:
    """Give a network that has room for them an adapter's rows."""
    assert isinstance(network, Transformer) and isinstance(network.embedding, AdaptedEmbedding)
    network.embedding.adapters[name] = rows


@torch.no_grad()
def work_in(network: Network, rows: NewRows | None) -> None:
    """Put rows into a network's tables, and a plain embedding where the adapted one was."""
    assert isinstance(network, Transformer)
    given = network.embedding
    plain = nn.Embedding(given.num_embeddings, given.embedding_dim, device="meta").train(given.training)
    plain.weight = given.weight if rows is None else nn.Parameter(rows.embedded(given.weight))
    if network.head is not None and rows is not None:
        network.head.weight = nn.Parameter(rows.output_matrix(network.head.weight).clone())
    network.embedding = plain
