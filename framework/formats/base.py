"""What a format is: a reversible table between a Transformer and a published architecture's config and tensor names.

A network's shape and tensors flow in, a Hugging Face config and tensors flow out, or the other way round. Must not know files
(checkpoint.py reads and writes those), tokenizers or training.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from framework.errors import CheckpointError
from framework.networks.shape import NetworkShape


class Entry(NamedTuple):
    """One of our tensors, or several in one, and where the published architecture keeps it.

    Attributes:
        ours: our name.
        shape: our tensor's shape; rows of vocabularies included. Of several of ours, their rows together.
        theirs: their names; several share our rows out between them in this order.
        rows: how many of our rows each of them has.
        transposed: they store [in, out] where we store [out, in].
        absent: we have no such tensor: they get zeros, and only zeros are taken from them.
        further: our further tensors, which share the rows equally with `ours`, after it (Phi-3's gate and up).
    """

    ours: str
    shape: tuple[int, ...]
    theirs: tuple[str, ...]
    rows: tuple[int, ...]
    transposed: bool = False
    absent: bool = False
    further: tuple[str, ...] = ()

    def joined(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Our tensors of this entry, one below the other."""
        return torch.cat([tensors[name] for name in (self.ours, *self.further)]) if self.further else tensors[self.ours]

    def parted(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Our names, and their tensors out of one such as `joined` makes."""
        names = (self.ours, *self.further)
        for name, part in zip(names, tensor.chunk(len(names)), strict=True):
            yield name, part.contiguous()


class Sizes(NamedTuple):
    """What a config says of a network."""

    shape: NetworkShape
    vocab_size: int
    context_length: int


class Format(ABC):
    """One published architecture.

    Attributes:
        architecture: its name in config.json's "architectures".
        model_type: its name in config.json's "model_type".
        embedding, head: their names of the two tables of the vocabulary.
        disregarded: tensors that old files hold and that are no weights, as regular expressions.
    """

    architecture: ClassVar[str]
    model_type: ClassVar[str]
    embedding: ClassVar[str]
    head: ClassVar[str] = "lm_head.weight"
    disregarded: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def objections(self, shape: NetworkShape) -> list[str]:
        """What of a shape this architecture cannot express; nothing when it computes the same function."""

    @abstractmethod
    def to_config(self, sizes: Sizes) -> dict[str, Any]:
        """The architecture's own fields of config.json."""

    @abstractmethod
    def from_config(self, config: Mapping[str, Any]) -> Sizes:
        """The sizes a config.json describes. Raises CheckpointError for a field whose value we do not compute."""

    @abstractmethod
    def table(self, sizes: Sizes) -> Iterator[Entry]:
        """Every tensor of a network of these sizes."""

    def renamed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors by the names of `table`, whichever of the names in use a file has."""
        return dict(tensors)

    def to_theirs(self, tensors: Mapping[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
        """Our tensors (the vocabulary without padding rows) under their names."""
        theirs: dict[str, Tensor] = {}
        for entry in self.table(sizes):
            ours = tensors["embedding.weight"].new_zeros(entry.shape) if entry.absent else entry.joined(tensors)
            for name, part in zip(entry.theirs, torch.split(ours, list(entry.rows)), strict=True):
                theirs[name] = (part.T if entry.transposed else part).contiguous()
        return theirs

    def to_ours(self, tensors: Mapping[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
        """Their tensors under our names. Raises CheckpointError for a missing, unexpected or misshapen one."""
        given = {name: tensor for name, tensor in self.renamed(tensors).items() if not self._is_disregarded(name)}
        if sizes.shape.tied_embeddings and self.head in given and torch.equal(given[self.head], given.get(self.embedding, torch.empty(0))):
            del given[self.head]  # some files hold a tied table twice
        ours: dict[str, Tensor] = {}
        for entry in self.table(sizes):
            parts = [self._part(given, name, (rows, *entry.shape[1:]), entry) for name, rows in zip(entry.theirs, entry.rows, strict=True)]
            if not entry.absent:
                ours |= entry.parted(torch.cat(parts) if len(parts) > 1 else parts[0])
        if given:
            raise CheckpointError(f"unexpected tensors for {self.architecture}: {_some(sorted(given))}")
        return ours

    def _part(self, given: dict[str, Tensor], name: str, shape: tuple[int, ...], entry: Entry) -> Tensor:
        if name not in given:
            raise CheckpointError(f"the tensor {name} of {self.architecture} is missing; there are: {_some(sorted(given))}")
        tensor = given.pop(name)
        expected = shape[::-1] if entry.transposed else shape
        if tuple(tensor.shape) != expected:
            raise CheckpointError(f"the tensor {name} has shape {list(tensor.shape)}; the config says {list(expected)}")
        if entry.absent and tensor.count_nonzero():
            raise CheckpointError(f"the tensor {name} is not zero, and this network has no place for it")
        return tensor.T if entry.transposed else tensor

    def _is_disregarded(self, name: str) -> bool:
        return any(re.search(pattern, name) for pattern in self.disregarded)


def required(config: Mapping[str, Any], name: str) -> Any:
    """A field of config.json. Raises CheckpointError when it is not there."""
    if config.get(name) is None:
        raise CheckpointError(f"config.json has no {name}")
    return config[name]


def unexpressed(shape: NetworkShape, said: Collection[str], settled: Mapping[str, Any]) -> list[str]:
    """Objections to the fields of a shape that a config does not say and that are not what the architecture settles.

    Args:
        shape: the network's.
        said: fields for which the config has words.
        settled: fields that have one value in this architecture; all others have their default in it.
    """
    wanted = {field.name: settled.get(field.name, field.default) for field in fields(shape) if field.name not in said}
    return [f"{name} must be {_in_words(value)}" for name, value in wanted.items() if getattr(shape, name) != value]


def refuse(config: Mapping[str, Any], computed: Mapping[str, Sequence[Any]]) -> None:
    """Raise CheckpointError for a field that is present with a value other than those we compute."""
    for name, values in computed.items():
        if name in config and config[name] not in values:
            raise CheckpointError(f"config.json has {name}: {config[name]!r}; supported: {', '.join(map(repr, values))}")


def _in_words(value: Any) -> str:
    """As YAML has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _some(names: Sequence[str]) -> str:
    return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "none"
