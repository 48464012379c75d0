"""What a GGUF file says is in it, checked against the file's size before anything is allocated or believed.

A mapped file flows in; metadata and the places of tensors flow out. Every count, length, type and offset is checked where it is read;
the first that cannot be is a CheckpointError naming the file, the thing and the byte. Strings and arrays stay in the file until they
are asked for, so that what is kept is small whatever the file claims. (The package's own reader believes the file, and keeps some
hundred bytes for every element of an array.) Must not know architectures or tokenizers.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from framework.errors import CheckpointError
from framework.formats.gguf.package import gguf

MAGIC, VERSIONS = b"GGUF", (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # type -> struct's letter
REALS, BOOL, STRING, ARRAY = (6, 12), 7, 8, 9
LONGEST_KEY = 256  # the format allows 65,535, nobody writes more than some tens
LONGEST_NAME = 64  # of a tensor
MOST_DIMENSIONS = 4
FEW, BYTES_EACH = 1000, 1 << 10  # an entry may cost this much of the file, save for a few: what is kept stays smaller than the file


class Stored(NamedTuple):
    """A string or an array that is still in the file.

    Attributes:
        kind: type of the value, or of an array's elements.
        elements: how many an array has; None: a string.
        start: where it begins.
        size: bytes it takes.
    """

    kind: int
    elements: int | None
    start: int
    size: int


class TensorInfo(NamedTuple):
    """A tensor in the file.

    Attributes:
        shape: as torch has it, the rows first (the file has it reversed).
        kind: its type by name, such as F32 or Q4_K.
        number: that type's number.
        start, size: where its bytes are.
    """

    shape: tuple[int, ...]
    kind: str
    number: int
    start: int
    size: int


@dataclass(frozen=True)
class Layout:
    """A checked file: its metadata and its tensors.

    Args:
        path: names the file in errors.
        data: all of it, mapped.
        metadata: key -> value; strings and arrays are `Stored`.
        tensors: name -> where and what it is.
    """

    path: Path
    data: mmap.mmap
    metadata: dict[str, int | float | Stored]
    tensors: dict[str, TensorInfo]

    def __contains__(self, key: str) -> bool:
        return key in self.metadata

    def refuse(self, problem: str) -> NoReturn:
        """Raise CheckpointError for something in this file."""
        raise CheckpointError(f"{self.path}: {problem}")

    def integer(self, key: str, default: int | None = None) -> int:
        """A number of metadata. Raises CheckpointError when there is none and no default, or it is none."""
        return self._value(key, int, "integer", default)

    def real(self, key: str, default: float | None = None) -> float:
        """A float of metadata, in the fewest digits that a 32-bit float needs (1e-05, not 9.999999747378752e-06)."""
        return float(str(np.float32(self._value(key, float, "float", default))))

    def flag(self, key: str, default: bool | None = None) -> bool:
        """A bool of metadata."""
        return self._value(key, bool, "bool", default)

    def text(self, key: str, default: str | None = None) -> str:
        """A string of metadata."""
        stored = self._stored(key, default is None)
        if stored is None:
            assert default is not None
            return default
        if stored.elements is not None:
            self.refuse(f"the metadata {key} is no string but an array")
        return self._decode(stored.start, stored.size, key)

    def texts(self, key: str) -> Iterator[str]:
        """The strings of an array of metadata, one at a time; none where the key is not there."""
        stored = self._stored(key, False)
        if stored is None:
            return
        if stored.elements is None or stored.kind != STRING:
            self.refuse(f"the metadata {key} is no array of strings")
        position = stored.start
        for _ in range(stored.elements):
            (length,) = struct.unpack_from("<Q", self.data, position)
            yield self._decode(position + 8, length, key)
            position += 8 + length

    def numbers(self, key: str) -> NDArray[Any] | None:
        """The numbers of an array of metadata, still in the file; None where the key is not there."""
        stored = self._stored(key, False)
        if stored is None:
            return None
        if stored.elements is None or stored.kind == STRING:
            self.refuse(f"the metadata {key} is no array of numbers")
        return np.frombuffer(self.data, np.dtype(f"<{SCALARS[stored.kind]}"), stored.elements, stored.start)

    def _value(self, key: str, kind: type, name: str, default: Any) -> Any:
        value = self.metadata.get(key, default)
        if value is None:
            self.refuse(f"the metadata has no {key}")
        if type(value) is not kind:
            self.refuse(f"the metadata {key} is no {name}")
        return value

    def _stored(self, key: str, needed: bool) -> Stored | None:
        value = self.metadata.get(key)
        if value is None and not needed:
            return None
        if not isinstance(value, Stored):
            self.refuse(f"the metadata has no {key}" if value is None else f"the metadata {key} is a number")
        return value

    def _decode(self, start: int, length: int, key: str) -> str:
        try:
            return self.data[start : start + length].decode()
        except UnicodeDecodeError:
            self.refuse(f"the metadata {key} has a string at byte {start} that is no UTF-8")


def shown(text: str) -> str:
    """A text of a file for a message: short, and on one line."""
    return text if len(text) <= 60 and text.isprintable() else f"{text[:60]!r}..."


def read_layout(path: Path) -> Layout:
    """The layout of a GGUF file. Raises CheckpointError for a file that cannot be read or is damaged."""
    try:
        with path.open("rb") as file:
            if not file.seek(0, 2):
                raise CheckpointError(f"{path} is empty, no GGUF file")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as problem:
        raise CheckpointError(f"{path} cannot be read: {problem.strerror or problem}") from problem
    return _Reader(path, data).layout()


class _Reader:
    """Walks through a file once, from its magic to its last tensor's place."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._size, self._position = path, data, len(data), 0

    def layout(self) -> Layout:
        if self._data[:4] != MAGIC:
            raise CheckpointError(f"{self._path} is no GGUF file: it does not begin with {MAGIC.decode()}")
        self._position = 4
        version = self._scalar("I", "the version")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            self._refuse(f"version {version} is not read" + (" (written for big-endian machines)" if swapped else ""), 4)
        num_tensors, num_keys = self._count("tensors", 33), self._count("keys of metadata", 13)
        metadata: dict[str, int | float | Stored] = {}
        for _ in range(num_keys):
            start = self._position
            key = self._name("a key of metadata", LONGEST_KEY)
            if key in metadata:
                self._refuse(f"the metadata has {key} twice", start)
            metadata[key] = self._value(self._scalar("I", f"the type of {key}"), key)
        tensors = self._tensors(num_tensors, self._alignment(metadata))
        return Layout(self._path, self._data, metadata, tensors)

    def _refuse(self, problem: str, position: int) -> NoReturn:
        raise CheckpointError(f"{self._path} is damaged at byte {position}: {problem}")

    def _take(self, num_bytes: int, what: str) -> int:
        """Where the next bytes are; they are in the file."""
        start = self._position
        if num_bytes > self._size - start:
            self._refuse(f"{what} takes {num_bytes} bytes, the file has {self._size - start} more", start)
        self._position += num_bytes
        return start

    def _scalar(self, letter: str, what: str) -> Any:
        start = self._take(struct.calcsize(f"<{letter}"), what)
        if letter == "?" and self._data[start] > 1:
            self._refuse(f"{what} is {self._data[start]}, no bool", start)
        return struct.unpack_from(f"<{letter}", self._data, start)[0]

    def _count(self, what: str, smallest: int) -> int:
        """A number of entries that the file is large enough to hold."""
        start = self._position
        count: int = self._scalar("Q", f"the number of {what}")
        most = min(FEW + self._size // BYTES_EACH, (self._size - self._position) // smallest)
        if count > most:
            self._refuse(f"it claims {count} {what}, a file of {self._size} bytes has room for {most}", start)
        return count

    def _name(self, what: str, longest: int) -> str:
        start = self._position
        length = self._scalar("Q", f"the length of {what}")
        if not 0 < length <= longest:
            self._refuse(f"{what} is {length} bytes long, not 1 to {longest}", start)
        place = self._take(length, what)
        try:
            name = self._data[place : place + length].decode()
        except UnicodeDecodeError:
            self._refuse(f"{what} is no UTF-8", place)
        if not name.isprintable():
            self._refuse(f"{what} has characters that no name has", place)
        return name

    def _value(self, kind: int, key: str) -> int | float | Stored:
        if kind in SCALARS:
            return self._scalar(SCALARS[kind], key)
        if kind == STRING:
            length = self._scalar("Q", f"the length of {key}")
            return Stored(STRING, None, self._take(length, key), length)
        if kind != ARRAY:
            self._refuse(f"{key} has the unknown type {kind}", self._position - 4)
        element, count = self._scalar("I", f"the type of {key}"), self._scalar("Q", f"the length of {key}")
        start = self._position
        if element in SCALARS:
            self._take(count * struct.calcsize(f"<{SCALARS[element]}"), key)
        elif element == STRING:
            self._take(8 * count, key)  # at least, so that a huge count fails at once
            self._position = start
            for _ in range(count):
                self._take(self._scalar("Q", f"the length of a string of {key}"), f"a string of {key}")
        else:
            self._refuse(f"{key} is an array of the type {element}; arrays hold numbers or strings", start - 12)
        return Stored(element, count, start, self._position - start)

    def _alignment(self, metadata: dict[str, int | float | Stored]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise CheckpointError(f"{self._path} is damaged: general.alignment is {alignment}, no power of two")
        return alignment

    def _tensors(self, count: int, alignment: int) -> dict[str, TensorInfo]:
        """Every tensor, its offset made a place in the file; they follow each other without holes, as the writers have it."""
        infos: dict[str, TensorInfo] = {}
        expected = 0
        for _ in range(count):
            start = self._position
            name = self._name("a tensor's name", LONGEST_NAME)
            if name in infos:
                self._refuse(f"the tensor {name} is there twice", start)
            info = self._tensor(name)
            if info.start != expected:
                self._refuse(f"the tensor {name} is at offset {info.start} of the data, not at {expected} where the last one ends", start)
            expected += -(-info.size // alignment) * alignment
            infos[name] = info
        base = -(-self._position // alignment) * alignment
        for name, info in infos.items():
            if base + info.start + info.size > self._size:
                end = base + info.start + info.size
                self._refuse(f"the tensor {name} ends at byte {end}, the file at {self._size}: it is cut off", base + info.start)
            infos[name] = info._replace(start=base + info.start)
        return infos

    def _tensor(self, name: str) -> TensorInfo:
        sizes = gguf().GGML_QUANT_SIZES
        start = self._position
        dimensions = self._scalar("I", f"the number of dimensions of {name}")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            self._refuse(f"the tensor {name} has {dimensions} dimensions, not 1 to {MOST_DIMENSIONS}", start)
        shape = tuple(self._scalar("Q", f"the shape of {name}") for _ in range(dimensions))[::-1]
        number = self._scalar("I", f"the type of {name}")
        kind = next((kind for kind in sizes if kind == number), None)
        if kind is None:
            self._refuse(f"the tensor {name} has the unknown type {number}", self._position - 4)
        per_block, block_bytes = sizes[kind]
        if 0 in shape or shape[-1] % per_block:
            self._refuse(f"the tensor {name} of type {kind.name} has the shape {list(shape)}; rows are multiples of {per_block}", start)
        offset = self._scalar("Q", f"the offset of {name}")
        return TensorInfo(shape, kind.name, number, offset, prod(shape) // per_block * block_bytes)
