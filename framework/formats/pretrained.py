"""`networks.Pretrained`: the network of a model directory, where a config would name a class. Lives here because networks know no files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from framework.errors import CheckpointError, ConfigError
from framework.formats.adaptation import Adaptation
from framework.networks.base import Network
from framework.networks.resize import add_ids, lengthen
from framework.networks.transformer import Transformer


def pretrained(path: Path, adapt: Adaptation | None = None) -> Callable[..., Network]:
    """What gives the network of a model directory when called with `vocab_size` and `context_length`, as a class does.

    Args:
        path: the model directory.
        adapt: what is changed about the network; null: nothing.
    """
    return functools.partial(opened, path, adapt)


def opened(path: Path, adapt: Adaptation | None = None, vocab_size: int | None = None, context_length: int | None = None) -> Network:
    """The network of a model directory, with its weights: ours, or one that Hugging Face's libraries wrote.

    Args:
        path: the model directory.
        adapt: what is changed about the network; null: nothing.
        vocab_size: ids of the tokenizer, which the network must have; null: not checked.
        context_length: longest sequence it must take; rotary positions are stretched to it, learned ones cannot be.

    Raises:
        CheckpointError: the directory is missing or damaged, or the network is too small.
        ConfigError: it cannot be changed so.
    """
    from framework.checkpoint import load_network  # imports the formats, this package among them

    adapt = adapt or Adaptation()
    network = load_network(path, None if adapt.dtype is None else getattr(torch, adapt.dtype))
    try:
        _adapt(network, adapt, vocab_size)
    except ValueError as problem:
        raise ConfigError(f"{path} cannot be adapted: {problem}") from problem
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


def _adapt(network: Network, adapt: Adaptation, vocab_size: int | None) -> None:
    """Change a network in place. Raises ValueError for what cannot be changed about it."""
    if adapt.quantize is not None:
        raise ValueError(f"only under a LoRA is a network quantised: give the LoRA quantize: {adapt.quantize}")
    if adapt.context_length is not None:
        lengthen(network, adapt.context_length, adapt.rotary_scaling)
    if adapt.new_tokens:
        assert vocab_size is not None, "who asks for new tokens has a tokenizer with them"
        add_ids(network, len(adapt.new_tokens), vocab_size)
