"""An adapter's rows of the vocabulary's tables as peft keeps them (`trainable_token_indices`): whole rows, by the tables' names.

Rows flow in, tensors and fields of adapter_config.json flow out, or the other way round. Must not know files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from framework.errors import CheckpointError
from framework.formats import known
from framework.networks.base import Network
from framework.networks.digest import NO_IDS
from framework.networks.lora import LoRA
from framework.networks.new_rows import NewRows
from framework.networks.transformer import Transformer

FIELD = "trainable_token_indices"
ROWS = ".token_adapter.trainable_tokens_delta"  # the rows themselves, in spite of the name


def config(base: Network, rows: NewRows | None) -> dict[str, Any]:
    """The field of adapter_config.json that says which rows."""
    return {} if rows is None else {FIELD: {table.rpartition(".")[2]: list(rows.ids) for table in _tables(base)}}


def tensors(base: Network, rows: NewRows | None) -> dict[str, Tensor]:
    """The rows by peft's names, without what it puts in front."""
    return {} if rows is None else {f"{table}{ROWS}": part for table, part in zip(_tables(base), rows.parameters(), strict=True)}


def ids(config: Mapping[str, Any]) -> range:
    """The ids whose rows an adapter brings. Raises CheckpointError for others than ids that follow each other, the same in each table."""
    stated = config.get(FIELD)
    lists = list(stated.values()) if isinstance(stated, dict) else [stated or []]
    found = range(lists[0][0], lists[0][-1] + 1) if lists and lists[0] else NO_IDS
    if any(list(found) != given for given in lists):
        raise CheckpointError(f"adapter_config.json has {FIELD}: {stated!r}; supported: ids that follow each other, the same in each table")
    return found


def taken(tensors: dict[str, Tensor], prefix: str, network: LoRA) -> NewRows | None:
    """The rows for a network's new ids, taken out of the tensors; None where it has no new ids. Raises CheckpointError."""
    if not network.new_ids:
        return None
    weight_VD = network.head_weight_VD
    expected, found = [len(network.new_ids), weight_VD.shape[1]], []
    for name in (f"{prefix}{table}{ROWS}" for table in _tables(network.base)):
        if name not in tensors:
            raise CheckpointError(f"the tensor {name} is missing")
        rows_KD = tensors.pop(name)
        if list(rows_KD.shape) != expected:
            raise CheckpointError(f"the tensor {name} has shape {list(rows_KD.shape)}; base and adapter_config.json say {expected}")
        if not rows_KD.isfinite().all():
            raise CheckpointError(f"the tensor {name} holds NaN or infinite values")
        found.append(rows_KD.to(weight_VD.device, torch.promote_types(weight_VD.dtype, torch.float32)))
    return NewRows(network.new_ids.start, *found)


def _tables(base: Network) -> list[str]:
    """What the published architecture calls the base's tables of the vocabulary; our own names where there is none."""
    name, _ = known.expressing(base)
    has_head = isinstance(base, Transformer) and base.head is not None
    embedding, head = ("embedding", "head") if name is None else (known.named(name).embedding, known.named(name).head)
    return [table.removesuffix(".weight") for table in (embedding, *([head] if has_head else []))]
