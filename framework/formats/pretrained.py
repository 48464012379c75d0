"""`networks.Pretrained`: the network of a model directory, where a config would name a class. Lives here because networks know no files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from framework.errors import CheckpointError
from framework.networks.base import Network
from framework.networks.transformer import Transformer


def pretrained(path: Path) -> Callable[..., Network]:
    """What gives the network of a model directory when called with `vocab_size` and `context_length`, as a class does.

    Args:
        path: the model directory.
    """
    return functools.partial(opened, path)


def opened(path: Path, vocab_size: int | None = None, context_length: int | None = None) -> Network:
    """The network of a model directory, with its weights: ours, or one that Hugging Face's libraries wrote.

    Args:
        path: the model directory.
        vocab_size: ids that the network must have at least; null: not checked.
        context_length: longest sequence it must take; rotary positions are stretched to it, learned ones cannot be.

    Raises:
        CheckpointError: the directory is missing or damaged, or the network is too small.
    """
    from framework.checkpoint import load_network  # imports the formats, this package among them

    network = load_network(path)
    if vocab_size is not None and vocab_size > network.vocab_size:
        raise CheckpointError(
            f"{path}: the network has {network.vocab_size} ids, the tokenizer {vocab_size}; use the model's own tokenizer"
        )
    if context_length is not None and context_length > network.context_length:
        if not isinstance(network, Transformer) or network.shape.positions == "learned":
            raise CheckpointError(
                f"{path}: the network takes {network.context_length} tokens, the data has rows of {context_length}; "
                "shorten data.context_length"
            )
        network.context_length = context_length
    return network.train()
