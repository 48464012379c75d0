"""SHA-256 of a network's values: whether two networks are the same one. A network flows in, 32 bytes flow out. Must not know files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from framework.networks.base import Network
from framework.networks.transformer import Transformer

NO_IDS = range(0)


def sha256(network: Network, leaving_out: range = NO_IDS) -> Tensor:
    """Of every tensor of a network with its name, type and shape, uint8 [32]; zeros for a network without values (on meta).

    Args:
        network: the network.
        leaving_out: ids whose rows in a Transformer's tables do not count, and whose being there does not: those of new tokens.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if tensor.is_meta:
            return torch.zeros(32, dtype=torch.uint8)
        parts = list(_rows(network, tensor, leaving_out)) if leaving_out and name in _tables(network) else [tensor]
        shape = [sum(len(part) for part in parts), *tensor.shape[1:]] if tensor.ndim else []
        digest.update(f"{name} {tensor.dtype} {shape}\n".encode())
        for part in parts:
            digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def hexadecimal(sha256: Tensor) -> str:
    """The 32 bytes in digits."""
    return bytes(sha256.tolist()).hex()


def _tables(network: Network) -> tuple[str, ...]:
    return ("embedding.weight", "head.weight") if isinstance(network, Transformer) else ()


def _rows(network: Network, table_VD: Tensor, leaving_out: range) -> Iterator[Tensor]:
    """A table without those rows, and without rows that pad it."""
    yield table_VD[: leaving_out.start]
    yield table_VD[leaving_out.stop : network.vocab_size]
