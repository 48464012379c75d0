"""safetensors files, read and written a tensor at a time: one file, or shards with an index, as Hugging Face's libraries keep them.

A directory flows in, `Weights` flow out, or the other way round. A large tensor is a part of the file mapped privately: it takes
memory when it is looked at, and gives it back when it is dropped. Must not know what the tensors mean.
"""

from __future__ import annotations

import json
import math
import mmap
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from framework.errors import CheckpointError
from framework.formats import sealed
from framework.formats.weights import Progress, Weights, quiet

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # as transformers, so that a hub takes the files
MAPPED_BYTES = 2**20  # smaller tensors are read
MOST_MAPPED = 400  # where each mapping holds a file handle, as before Python 3.13: a model of more matrices is read
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Place(NamedTuple):
    """Where a tensor lies: its file, the first byte there, and what it is."""

    file: Path
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFiles:
    """The weights of a directory: model.safetensors, or the shards that its index names.

    Args:
        directory: the model directory.

    Raises:
        CheckpointError: a file is missing or damaged, or the index does not fit its files.
    """

    def __init__(self, directory: Path) -> None:
        if (directory / INDEX).is_file() and not (directory / FILE).is_file():
            self._places = _indexed(directory)
        else:
            self._places = _places(directory / FILE)
        large = sum(place.num_bytes >= MAPPED_BYTES for place in self._places.values())
        self._maps = large <= MOST_MAPPED or sys.version_info >= (3, 13)

    @property
    def names(self) -> Sequence[str]:
        """Every tensor's name."""
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self._places[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's type."""
        return self._places[name].dtype

    def tensor(self, name: str) -> Tensor:
        """A tensor; writing to it does not reach the file."""
        place = self._places[name]
        is_aligned = place.start % place.dtype.itemsize == 0
        try:
            found = _map(place) if self._maps and is_aligned and place.num_bytes >= MAPPED_BYTES else _read(place)
        except (OSError, ValueError) as problem:
            raise CheckpointError(f"{place.file} is damaged: {problem}") from problem
        return found.view(place.dtype).reshape(place.shape)


def _map(place: Place) -> Tensor:
    """The bytes of a tensor as pages of its file."""
    before = place.start % mmap.ALLOCATIONGRANULARITY
    length, offset = before + place.num_bytes, place.start - before
    with place.file.open("rb") as file:
        if sys.version_info >= (3, 13):
            pages = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY, offset=offset, trackfd=False)
        else:
            pages = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY, offset=offset)
    return torch.frombuffer(pages, dtype=torch.uint8, count=place.num_bytes, offset=before)


def _read(place: Place) -> Tensor:
    """The bytes of a tensor in memory of their own."""
    found = torch.empty(place.num_bytes, dtype=torch.uint8)
    with place.file.open("rb") as file:
        file.seek(place.start)
        if file.readinto(found.numpy().data) != place.num_bytes:
            raise ValueError("it has become shorter")
    return found


def _indexed(directory: Path) -> dict[str, Place]:
    """Every tensor of an index, each in the file that it names."""
    file = directory / INDEX
    index = sealed.read_json(file)
    named, stated = index.get("weight_map"), (index.get("metadata") or {}).get("total_size")
    if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
        raise CheckpointError(f"{file} is damaged: it has no weight_map of names to files")
    if astray := [shard for shard in named.values() if Path(shard).name != shard]:
        raise CheckpointError(f"{file} leads out of its directory, to {astray[0]}: refused")
    found = {shard: _places(directory / shard) for shard in sorted(set(named.values()))}
    for name, shard in named.items():
        if name not in found[shard]:
            raise CheckpointError(f"{directory / shard} lacks the tensor {name}, which {INDEX} says it has")
    for shard, places in found.items():
        if extra := [name for name in places if named.get(name) != shard]:
            raise CheckpointError(f"{directory / shard} holds the tensor {extra[0]}, and {INDEX} does not say so")
    places = {name: found[shard][name] for name, shard in named.items()}
    total = sum(place.num_bytes for place in places.values())
    if isinstance(stated, int | float) and stated != total:
        raise CheckpointError(f"{file} states {stated:,} bytes in all, and its files hold {total:,}: a shard is another model's")
    return places


def _places(file: Path) -> dict[str, Place]:
    """Every tensor of a file, once the library has found its header sound: sizes, order, no holes, nothing beyond the end."""
    if not file.is_file():
        pickled = " (pickled .bin weights are not read: save them as safetensors)" if any(file.parent.glob("*.bin")) else ""
        raise CheckpointError(f"{file} is missing{pickled}")
    try:
        with safe_open(file, framework="np"):
            pass
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header: dict[str, Any] = json.loads(opened.read(length))
    except (SafetensorError, OSError, ValueError) as problem:
        raise CheckpointError(f"{file} is damaged: {problem}") from problem
    header.pop("__metadata__", None)
    if unknown := [entry["dtype"] for entry in header.values() if entry["dtype"] not in DTYPES]:
        raise CheckpointError(f"{file} holds tensors of the type {unknown[0]}; those that are read: {', '.join(DTYPES)}")
    return {
        name: Place(file, 8 + length + entry["data_offsets"][0], DTYPES[entry["dtype"]], tuple(entry["shape"]))
        for name, entry in header.items()
    }


def write(directory: Path, weights: Weights, progress: Progress = quiet, shard_bytes: int = SHARD_BYTES) -> None:
    """Write weights into a directory, in shards with an index where they are more than `shard_bytes`.

    Args:
        directory: where model.safetensors, or the shards, go.
        weights: read one at a time.
        progress: told of the bytes written.
        shard_bytes: most bytes of a file, unless one tensor alone has more.
    """
    shards = list(_shards(weights, shard_bytes))
    sizes = {name: _num_bytes(weights, name) for shard in shards for name in shard}
    total, done = sum(sizes.values()), 0
    placed: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = FILE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        placed |= dict.fromkeys(names, file)
        with (directory / file).open("wb") as opened:
            opened.write(_header(weights, names))
            for name in names:
                _write_tensor(opened, weights.tensor(name))
                progress(done := done + sizes[name], total)
    if len(shards) > 1:
        sealed.write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))})


def _shards(weights: Weights, shard_bytes: int) -> Iterator[list[str]]:
    """The names file by file; in each, wide types first, so that every tensor is aligned."""
    names: list[str] = []
    size = 0
    for name in weights.names:
        num_bytes = _num_bytes(weights, name)
        if names and size + num_bytes > shard_bytes:
            yield sorted(names, key=lambda name: -weights.dtype(name).itemsize)
            names, size = [], 0
        names.append(name)
        size += num_bytes
    yield sorted(names, key=lambda name: -weights.dtype(name).itemsize)


def _num_bytes(weights: Weights, name: str) -> int:
    return math.prod(weights.shape(name)) * weights.dtype(name).itemsize


def _header(weights: Weights, names: Sequence[str]) -> bytes:
    """A file's header, length included, padded to a multiple of eight bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + _num_bytes(weights, name)
        header[name] = {"dtype": NAMES[weights.dtype(name)], "shape": list(weights.shape(name)), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_tensor(file: IO[bytes], tensor: Tensor) -> None:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel():
        file.write(flat.view(torch.uint8).numpy().data)
