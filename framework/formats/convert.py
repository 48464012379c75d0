"""Weights from one set of names to another, an entry of a format's table at a time: neither side is ever whole in memory twice.

`Weights` by a published architecture's names flow in, our tensors flow out (`to_ours`), or the other way round (`Theirs`). Every name
and size is checked before the first value is read. Must not know files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from framework.errors import CheckpointError
from framework.formats.base import Entry, Format, Sizes
from framework.formats.weights import Weights


class Checked:
    """Weights by an architecture's own names, in its order; whichever names in use the file has.

    Args:
        form: the architecture.
        weights: what was found.
        sizes: what the config says of it.

    Raises:
        CheckpointError: a tensor is missing, unexpected or misshapen; or, once it is read, not zero where it has to be.
    """

    def __init__(self, form: Format, weights: Weights, sizes: Sizes) -> None:
        self._weights = weights
        table = list(form.table(sizes))
        shapes = {name: shape for entry in table for name, shape in _shapes(entry)}
        self._stored = _stored(form, weights, sizes, shapes)
        self._zero = {name for entry in table if entry.absent for name in entry.theirs}
        self.names: Sequence[str] = list(shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self._weights.shape(self._stored[name])

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's type."""
        return self._weights.dtype(self._stored[name])

    def tensor(self, name: str) -> Tensor:
        """A tensor."""
        tensor = self._weights.tensor(self._stored[name])
        if name in self._zero and tensor.count_nonzero():
            raise CheckpointError(f"the tensor {name} is not zero, and this network has no place for it")
        return tensor


class Theirs:
    """Our tensors by a published architecture's names.

    Args:
        form: the architecture.
        tensors: ours, the vocabulary without padding rows.
        sizes: of the network.
    """

    def __init__(self, form: Format, tensors: Mapping[str, Tensor], sizes: Sizes) -> None:
        self._tensors = tensors
        self._default = next(iter(tensors.values())).dtype
        self._entries = {name: entry for entry in form.table(sizes) for name in entry.theirs}
        self._shapes = {name: shape for entry in self._entries.values() for name, shape in _shapes(entry)}
        self.names: Sequence[str] = list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's type."""
        entry = self._entries[name]
        return self._default if entry.absent else self._tensors[entry.ours].dtype

    def tensor(self, name: str) -> Tensor:
        """A tensor."""
        entry = self._entries[name]
        if entry.absent:
            return torch.zeros(self.shape(name), dtype=self._default)
        part = torch.split(entry.joined(self._tensors), list(entry.rows))[entry.theirs.index(name)]
        return (part.T if entry.transposed else part).contiguous()


class Cast:
    """Weights of one type, every value finite.

    Args:
        weights: as they are.
        dtype: what they become.
    """

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        self._weights, self._dtype = weights, dtype
        self.names: Sequence[str] = weights.names

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self._weights.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """The type they become."""
        return self._dtype

    def tensor(self, name: str) -> Tensor:
        """A tensor. Raises CheckpointError for one that holds NaN or infinity, or values that the type has no room for."""
        stored = self._weights.tensor(name)
        tensor = stored.to(self._dtype)
        if not is_finite(tensor):
            kind = str(self._dtype).removeprefix("torch.")
            cause = f"values too large for {kind}: take bfloat16 or float32" if is_finite(stored) else "NaN or infinite values"
            raise CheckpointError(f"the tensor {name} holds {cause}")
        return tensor


def to_ours(form: Format, weights: Weights, sizes: Sizes) -> Iterator[tuple[str, Tensor]]:
    """Our tensors by our names, one after the other. Raises what `Checked` raises."""
    checked = Checked(form, weights, sizes)
    for entry in form.table(sizes):
        parts = [checked.tensor(name) for name in entry.theirs]
        if not entry.absent:
            parts = [part.T if entry.transposed else part for part in parts]
            yield from entry.parted(torch.cat(parts) if len(parts) > 1 else parts[0])


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity, found in one pass over the memory."""
    if not tensor.is_floating_point():
        return True
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return bool(tensor.sum(dtype=wide).isfinite()) or bool(tensor.isfinite().all())  # a sum may overflow: only a bad one is looked into


def _stored(form: Format, weights: Weights, sizes: Sizes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The architecture's names -> those in the file. Raises CheckpointError for a missing, unexpected or misshapen tensor."""
    found = _renamed(form, weights.names)
    if sizes.shape.tied_embeddings and form.head in found and form.embedding in found:  # some files hold a tied table twice
        head, table = (weights.tensor(found[name]) for name in (form.head, form.embedding))
        if torch.equal(head, table):
            del found[form.head]
    for name, shape in shapes.items():
        if name not in found:
            raise CheckpointError(f"the tensor {name} of {form.architecture} is missing; there are: {_some(sorted(found))}")
        if weights.shape(found[name]) != shape:
            given = list(weights.shape(found[name]))
            raise CheckpointError(f"the tensor {name} has shape {given}; the config says {list(shape)}")
    if unexpected := sorted(found.keys() - shapes.keys()):
        raise CheckpointError(f"unexpected tensors for {form.architecture}: {_some(unexpected)}")
    return found


def _renamed(form: Format, names: Sequence[str]) -> dict[str, str]:
    """The architecture's names -> those in the file; what is no weight is left out."""
    given = cast(Mapping[str, Any], {name: name for name in names})  # `renamed` looks at names only
    renamed = cast(dict[str, str], form.renamed(given))
    return {name: stored for name, stored in renamed.items() if not any(re.search(pattern, name) for pattern in form.disregarded)}


def _shapes(entry: Entry) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Their names and shapes."""
    for name, rows in zip(entry.theirs, entry.rows, strict=True):
        shape = (rows, *entry.shape[1:])
        yield name, shape[::-1] if entry.transposed else shape


def _some(names: Sequence[str]) -> str:
    return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "none"
