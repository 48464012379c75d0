"""What a file says, and the error for each way in which it can be damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from framework.errors import CheckpointError
from framework.formats.gguf.layout import Layout, read_layout

gguf = pytest.importorskip("gguf")
U32, STRING, ARRAY = 4, 8, 9


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def tensor(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(folder: Path, *parts: bytes, keys: int = 0, tensors: int = 0, data: bytes = b"", version: int = 3) -> Path:
    header = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts)
    (folder / "x.gguf").write_bytes(header + bytes(-len(header) % 32) + data)
    return folder / "x.gguf"


def test_what_is_read(tmp_path: Path) -> None:
    """Against the package's own writer and reader."""
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_uint32("n", 7)
    writer.add_float32("eps", 1e-5)
    writer.add_bool("yes", True)
    writer.add_string("text", "naïve")
    writer.add_array("texts", ["a", "", "日本"])
    writer.add_array("numbers", [1.5, -2.0])
    writer.add_tensor("one", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("two", np.ones(5, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    layout = read_layout(tmp_path / "x.gguf")
    assert (layout.integer("n"), layout.real("eps"), layout.flag("yes"), layout.text("text")) == (7, 1e-5, True, "naïve")
    assert list(layout.texts("texts")) == ["a", "", "日本"] and list(layout.texts("none")) == []
    numbers = layout.numbers("numbers")
    assert numbers is not None and numbers.tolist() == [1.5, -2.0] and layout.numbers("none") is None
    assert (layout.integer("none", 3), layout.text("none", "d"), "n" in layout, "none" in layout) == (3, "d", True, False)
    for found in gguf.GGUFReader(tmp_path / "x.gguf").tensors:
        info = layout.tensors[found.name]
        assert (info.shape, info.kind, info.start, info.size) == (
            tuple(found.shape.tolist()[::-1]), found.tensor_type.name, found.data_offset, found.n_bytes,
        )  # fmt: skip


ONE = struct.pack("<I", 1)
DAMAGED: dict[str, tuple[dict[str, object], tuple[bytes, ...], str]] = {
    "version": ({"version": 4}, (), "version 4 is not read"),
    "big-endian": ({"version": 3 << 24}, (), r"written for big-endian machines"),
    "many keys": ({"keys": 1 << 60}, (), "it claims 1152921504606846976 keys of metadata, a file of 32 bytes has room for 0"),
    "many tensors": ({"tensors": 50}, (), "it claims 50 tensors, a file of 32 bytes has room for 0"),
    "long key": ({"keys": 1}, (key(b"k" * 300, U32, ONE),), "a key of metadata is 300 bytes long, not 1 to 256"),
    "key beyond": ({"keys": 1}, (struct.pack("<Q", 40) + b"k" * 30,), "a key of metadata takes 40 bytes, the file has 32 more"),
    "no UTF-8": ({"keys": 1}, (key(b"\xff\xfe", U32, ONE),), "a key of metadata is no UTF-8"),
    "a line in a key": ({"keys": 1}, (key(b"a\nb", U32, ONE),), "has characters that no name has"),
    "twice": ({"keys": 2}, (key(b"a", U32, ONE), key(b"a", U32, ONE)), "the metadata has a twice"),
    "type": ({"keys": 1}, (key(b"a", 13, ONE),), "a has the unknown type 13"),
    "bool": ({"keys": 1}, (key(b"a", 7, b"\x02"),), "a is 2, no bool"),
    "string": ({"keys": 1}, (key(b"a", STRING, struct.pack("<Q", 1 << 63)),), "a takes 9223372036854775808 bytes"),
    "array": ({"keys": 1}, (key(b"a", ARRAY, struct.pack("<IQ", U32, 1 << 62)),), "a takes 18446744073709551616 bytes"),
    "strings": ({"keys": 1}, (key(b"a", ARRAY, struct.pack("<IQ", STRING, 1 << 40)),), "a takes 8796093022208 bytes"),
    "nested": ({"keys": 1}, (key(b"a", ARRAY, struct.pack("<IQ", ARRAY, 1)),), "an array of the type 9; arrays hold numbers or strings"),
    "alignment": ({"keys": 1}, (key(b"general.alignment", U32, struct.pack("<I", 24)),), "general.alignment is 24, no power of two"),
    "name": ({"tensors": 1}, (tensor(b"t" * 65, (4,), 0, 0),), "a tensor's name is 65 bytes long"),
    "dimensions": ({"tensors": 1}, (tensor(b"t", (1,) * 5, 0, 0),), "the tensor t has 5 dimensions, not 1 to 4"),
    "empty": ({"tensors": 1}, (tensor(b"t", (4, 0), 0, 0),), r"the tensor t of type F32 has the shape \[0, 4\]"),
    "block": ({"tensors": 1}, (tensor(b"t", (33,), 2, 0),), r"of type Q4_0 has the shape \[33\]; rows are multiples of 32"),
    "tensor type": ({"tensors": 1}, (tensor(b"t", (4,), 4, 0),), "the tensor t has the unknown type 4"),
    "same tensor": ({"tensors": 2}, (tensor(b"t", (4,), 0, 0), tensor(b"t", (4,), 0, 32)), "the tensor t is there twice"),
    "overlap": ({"tensors": 2}, (tensor(b"t", (9,), 0, 0), tensor(b"u", (4,), 0, 32)), "u is at offset 32 of the data, not at 64"),
    "hole": ({"tensors": 1}, (tensor(b"t", (4,), 0, 32),), "t is at offset 32 of the data, not at 0"),
    "cut": ({"tensors": 1}, (tensor(b"t", (1 << 40, 1 << 20), 0, 0),), "it is cut off"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    counts, parts, message = DAMAGED[name]
    path = file(tmp_path, *parts, **counts)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=message) as raised:
        read_layout(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"PK\x03\x04", "does not begin with GGUF"), (b"GG", "does not begin")]
)
def test_what_is_no_such_file(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_layout(tmp_path / "x.gguf")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match="cannot be read: "):
            read_layout(path)


def test_values_of_another_kind(tmp_path: Path) -> None:
    layout: Layout = read_layout(file(tmp_path, key(b"n", U32, ONE), key(b"s", STRING, string(b"\xff")), keys=2))
    for ask, message in (
        (lambda: layout.integer("none"), "the metadata has no none"),
        (lambda: layout.real("n"), "the metadata n is no float"),
        (lambda: layout.flag("n"), "the metadata n is no bool"),
        (lambda: layout.integer("s"), "the metadata s is no integer"),
        (lambda: layout.text("n"), "the metadata n is a number"),
        (lambda: layout.text("none"), "the metadata has no none"),
        (lambda: layout.text("s"), "that is no UTF-8"),
        (lambda: list(layout.texts("s")), "the metadata s is no array of strings"),
        (lambda: layout.numbers("s"), "the metadata s is no array of numbers"),
    ):
        with pytest.raises(CheckpointError, match=message):
            ask()
