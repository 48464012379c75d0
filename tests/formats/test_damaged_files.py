"""GGUF and safetensors files that were damaged in every way we could think of: one clear error each, no crash, no hang, little memory.

A mutation of values alone may load; where there is a framework.json, nothing that was changed loads. The slow test does 10,000 of each
in a process of its own, whose death would be a failure, and measures what opening takes at its peak.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from framework.checkpoint import load_network, save
from framework.errors import CheckpointError, TokenizerError
from framework.formats.gguf import open_gguf, write_gguf
from framework.formats.sealed import MANIFEST
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.bpe import BPE

HANG_SECONDS = 5
NOISE_BYTES = 1 << 20  # what a Python process gains and loses by itself
MANY = 10_000
HUGE = (1 << 63, (1 << 64) - 1, 1 << 32, 1 << 40, 1 << 20, 65536)
TEXT = "She sells sea shells by the sea shore; the shells she sells are sea shells, I'm sure.\n" * 5

Mutation = Callable[[random.Random, bytearray], None]


class Case(NamedTuple):
    """A damaged file.

    Attributes:
        name: how it was damaged.
        data: its bytes.
        structural: it cannot be what anybody wrote.
    """

    name: str
    data: bytes
    structural: bool


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 400 kB."""
    return model(tmp_path_factory.mktemp("sound"), width=64)


def model(folder: Path, width: int) -> Path:
    """A model as a sealed directory and as model.gguf."""
    shape = NetworkShape(
        num_layers=2, width=width, num_heads=4, num_kv_heads=2, positions="rotary", norm="rms", feedforward="swiglu", norm_eps=1e-5
    )
    torch.manual_seed(0)
    tokenizer = BPE.train([TEXT], vocab_size=284)
    network = Transformer(shape, 284, 64)
    save(folder / "model", network, tokenizer, {})
    config = json.loads((folder / "model" / "config.json").read_text())
    write_gguf(folder / "model.gguf", config, load_file(folder / "model" / "model.safetensors").items(), tokenizer, None, "F32")
    return folder


# how files are damaged


def anywhere(header: int) -> dict[str, Mutation]:
    """Damage that knows nothing of a format but where its header ends."""

    def flip(draw: random.Random, data: bytearray) -> None:
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(header)] ^= 1 << draw.randrange(8)

    def number(letter: str, values: tuple[int, ...]) -> Mutation:
        def write(draw: random.Random, data: bytearray) -> None:
            struct.pack_into(f"<{letter}", data, draw.randrange(header - 8), draw.choice(values) % (1 << 8 * struct.calcsize(letter)))

        return write

    def noise(draw: random.Random, data: bytearray) -> None:
        start = draw.randrange(header)
        length = draw.randint(1, 64)
        data[start : start + length] = draw.randbytes(length)

    def insert(draw: random.Random, data: bytearray) -> None:
        place = draw.randrange(header)
        data[place:place] = draw.randbytes(draw.randint(1, 40))

    def remove(draw: random.Random, data: bytearray) -> None:
        place = draw.randrange(header)
        del data[place : place + draw.randint(1, 40)]

    def repeat(draw: random.Random, data: bytearray) -> None:
        place = draw.randrange(header)
        data[place:place] = data[place : place + draw.randint(1, 400)]

    def values(draw: random.Random, data: bytearray) -> None:
        data[draw.randrange(header, len(data))] ^= 1 << draw.randrange(8)

    numbers = {"a huge number": number("Q", HUGE), "a small number": number("I", (0, 1, 255, 65535, (1 << 32) - 1))}
    return {"bits": flip, **numbers, "noise": noise, "inserted": insert, "removed": remove, "repeated": repeat, "values": values}


def cut(draw: random.Random, data: bytearray) -> None:
    del data[draw.randrange(len(data) - 64) :]


def random_bytes(draw: random.Random, data: bytearray) -> None:
    data[4:] = draw.randbytes(draw.randrange(1, 4000))


def at(places: list[int], letter: str, *values: int) -> Mutation:
    """One of these values in one of these places."""

    def write(draw: random.Random, data: bytearray) -> None:
        place = draw.choice(places)
        before = struct.unpack_from(f"<{letter}", data, place)[0]
        struct.pack_into(f"<{letter}", data, place, draw.choice([value for value in values if value != before]))

    return write


def damaged_gguf(data: bytes, path: Path) -> Iterator[Case]:
    """Endlessly many; what is structural is known by where the package's reader found the field."""
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(path)
    parts: dict[str, list[int]] = {"name": [], "dimensions": [], "shape": [], "type": [], "offset": [], "key": [], "array": [], "value": []}
    for tensor in reader.tensors:
        place = tensor.field.offset
        parts["name"].append(place)
        place += 8 + int(tensor.field.parts[0][0])
        parts["dimensions"].append(place)
        parts["shape"].append(place + 4)
        place += 4 + 8 * len(tensor.shape)
        parts["type"].append(place)
        parts["offset"].append(place + 4)
    for field in list(reader.fields.values())[3:]:
        parts["key"].append(field.offset)
        place = field.offset + 8 + int(field.parts[0][0])
        parts["value"].append(place)
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            parts["array"].append(place + 4)
    counts = [8, 16]

    def twice(draw: random.Random, content: bytearray) -> None:
        """Two keys of one name: the second gets the first's, of the same length."""
        names: dict[int, list[int]] = {}
        for place in parts["key"]:
            names.setdefault(struct.unpack_from("<Q", content, place)[0], []).append(place)
        first, second = draw.sample(draw.choice([places for places in names.values() if len(places) > 1]), 2)
        length = struct.unpack_from("<Q", content, first)[0]
        content[second + 8 : second + 8 + length] = content[first + 8 : first + 8 + length]

    def swapped(draw: random.Random, content: bytearray) -> None:
        """Two tensors' offsets exchanged: they overlap, or are out of order."""
        first, second = draw.sample(parts["offset"], 2)
        content[first : first + 8], content[second : second + 8] = content[second : second + 8], content[first : first + 8]

    structural: dict[str, Mutation] = {
        "cut": cut,
        "random": random_bytes,
        "counts": at(counts, "Q", *HUGE),
        "key length": at(parts["key"], "Q", 0, *HUGE),
        "name length": at(parts["name"], "Q", 0, *HUGE),
        "dimensions": at(parts["dimensions"], "I", 0, 5, 255, (1 << 32) - 1),
        "shape": at(parts["shape"], "Q", 0, *HUGE),
        "tensor type": at(parts["type"], "I", 4, 5, 99, (1 << 32) - 1),
        "offset": at(parts["offset"], "Q", 1, 31, *HUGE),
        "offsets swapped": swapped,
        "value type": at(parts["value"], "I", 13, 99, (1 << 32) - 1),
        "nested arrays": at(parts["array"], "I", 9, 13),
        "array length": at([place + 4 for place in parts["array"]], "Q", *HUGE),
        "a key twice": twice,
        "magic": at([0], "I", 0, 1),
        "version": at([4], "I", 0, 1, 4, 3 << 24),
    }
    yield from damage(data, structural, anywhere(reader.data_offset))


def damaged_safetensors(data: bytes) -> Iterator[Case]:
    """Endlessly many; the header is JSON, so that it is damaged as such too."""
    (length,) = struct.unpack_from("<Q", data)
    content = json.loads(data[8 : 8 + length])
    names = [name for name in content if name != "__metadata__"]

    def header(change: Callable[[random.Random, dict[str, Any]], object]) -> Mutation:
        def write(draw: random.Random, found: bytearray) -> None:
            changed = json.loads(json.dumps(content))
            change(draw, changed)
            text = json.dumps(changed).encode()
            found[: 8 + length] = struct.pack("<Q", len(text)) + text

        return write

    def text(made: Callable[[random.Random], bytes]) -> Mutation:
        def write(draw: random.Random, found: bytearray) -> None:
            made_text = made(draw)
            found[: 8 + length] = struct.pack("<Q", len(made_text)) + made_text

        return write

    def one(draw: random.Random, changed: dict[str, Any]) -> dict[str, Any]:
        return changed[draw.choice(names)]

    def overlap(draw: random.Random, changed: dict[str, Any]) -> None:
        first, second = draw.sample(names, 2)
        changed[first]["data_offsets"] = changed[second]["data_offsets"]

    structural: dict[str, Mutation] = {
        "cut": cut,
        "random": random_bytes,
        "header length": at([0], "Q", 0, *HUGE),
        "shape": header(lambda draw, c: one(draw, c).update(shape=[draw.choice([0, 1 << 31, 1 << 62]), draw.choice([3, 1 << 31])])),
        "type": header(lambda draw, c: one(draw, c).update(dtype=draw.choice(["F64", "BOOL", "Q4", 7, None]))),
        "offsets": header(lambda draw, c: one(draw, c).update(data_offsets=draw.choice([[0, 1], [5, 4], [-1, 3], [0, 1 << 62], [], "x"]))),
        "overlap": header(overlap),
        "missing": header(lambda draw, c: c.pop(draw.choice(names))),
        "unexpected": header(lambda draw, c: c.update({"more.weight": one(draw, c)})),
        "nested": text(lambda draw: b"[" * draw.choice([200, 20_000, 500_000])),
        "nested objects": text(lambda draw: b'{"a":' * draw.choice([200, 20_000, 500_000])),
        "no JSON": text(lambda draw: draw.randbytes(200)),
    }
    yield from damage(data, structural, anywhere(8 + length))


def damage(data: bytes, structural: dict[str, Mutation], other: dict[str, Mutation]) -> Iterator[Case]:
    draw = random.Random(0)
    while True:
        for name, mutate in {**structural, **other}.items():
            changed = bytearray(data)
            mutate(draw, changed)
            if changed != data:
                yield Case(name, bytes(changed), name in structural)


# what comes of them


def open_whole_gguf(file: Path) -> None:
    contents = open_gguf(file)
    for name in contents.names:
        contents.tensor(name)
    contents.tokenizer()
    contents.template()


@contextmanager
def in_time() -> Iterator[None]:
    def hang(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(case: Case, file: Path, load: Callable[[], object]) -> str:
    """refused or loaded; AssertionError for anything else than one clear error that names the file."""
    file.write_bytes(case.data)
    try:
        with in_time():
            load()
    except (CheckpointError, TokenizerError) as problem:
        message = str(problem)
        assert file.stem in message or str(file.parent) in message, f"{case.name}: which file? {message}"
        assert "\n" not in message and len(message) < 1000, f"{case.name}: {message[:2000]}"
        return "refused"
    except Exception as problem:
        raise AssertionError(f"{case.name}: {type(problem).__name__}: {problem}") from problem
    assert not case.structural, f"{case.name}: it loaded"
    return "loaded"


def count(cases: Iterator[Case], number: int, file: Path, load: Callable[[], object]) -> Counter[str]:
    return Counter(outcome(case, file, load) for case in islice(cases, number))


def foreign(sound: Path, folder: Path) -> Path:
    """The model without its framework.json: as somebody else's."""
    shutil.copytree(sound / "model", folder)
    (folder / MANIFEST).unlink()
    return folder


def test_gguf(sound: Path, tmp_path: Path) -> None:
    cases = damaged_gguf((sound / "model.gguf").read_bytes(), sound / "model.gguf")
    found = count(cases, 150, tmp_path / "damaged.gguf", lambda: open_whole_gguf(tmp_path / "damaged.gguf"))
    assert found["refused"] > 100 and found["loaded"] > 3


def test_safetensors(sound: Path, tmp_path: Path) -> None:
    folder = foreign(sound, tmp_path / "model")
    cases = damaged_safetensors((folder / "model.safetensors").read_bytes())
    found = count(cases, 150, folder / "model.safetensors", lambda: load_network(folder))
    assert found["refused"] > 100 and found["loaded"] > 3


def test_the_manifest_catches_every_change(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sound / "model", folder)
    cases = damaged_safetensors((folder / "model.safetensors").read_bytes())
    assert count(cases, 150, folder / "model.safetensors", lambda: load_network(folder)) == {"refused": 150}


def test_opening_takes_less_memory_than_the_file(sound: Path, tmp_path: Path) -> None:
    """Python's own count of it: small whatever the file claims, arrays of a million elements included."""
    import tracemalloc

    gguf = pytest.importorskip("gguf")
    cases = damaged_gguf((sound / "model.gguf").read_bytes(), sound / "model.gguf")
    writer = gguf.GGUFWriter(tmp_path / "arrays.gguf", "llama")
    writer.add_key_value("many", b"\x01" * 1_000_000, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT8)
    writer.add_array("strings", ["a"] * 100_000)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    arrays = Case("arrays", (tmp_path / "arrays.gguf").read_bytes(), True)
    file = tmp_path / "damaged.gguf"
    for case in [arrays, *islice(cases, 60)]:
        tracemalloc.start()
        outcome(case._replace(structural=False), file, lambda: open_gguf(file))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < max(2 * len(case.data), 1 << 17), f"{case.name}: {peak} bytes for a file of {len(case.data)}"


# ten thousand


class Report(NamedTuple):
    """What a process saw that opened many files.

    Attributes:
        outcomes: refused and loaded.
        peak: the largest growth of its memory while opening one, over the file's size.
        failures: what else happened.
    """

    outcomes: dict[str, int]
    peak: float
    failures: list[str]


def memory(field: str) -> int:
    """A field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def many(cases: Iterator[Case], file: Path, load: Callable[[], object]) -> Report:
    for case in islice(cases, 30):  # libraries take memory when they are first used
        outcome(case, file, load)
    outcomes: Counter[str] = Counter()
    peak, failures = 0.0, []
    for number, case in enumerate(islice(cases, MANY)):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what there is
        before = memory("VmRSS")
        try:
            outcomes[outcome(case, file, load)] += 1
        except AssertionError as failure:
            failures.append(f"{number}: {failure}")
        grown = max(0, memory("VmHWM") - before - NOISE_BYTES) / len(case.data)
        if grown > 2:
            failures.append(f"{number}: {case.name} took {grown:.1f} times the file's {len(case.data)} bytes")
        peak = max(peak, grown)
    return Report(dict(outcomes), peak, failures)


def in_a_process(run: Callable[[], Report], folder: Path) -> Report:
    """What `run` gives, in a child: its death is a failure of the test, not of the tests."""
    if not (child := os.fork()):
        try:
            (folder / "report.json").write_text(json.dumps(run()))
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "it crashed"
    return Report(*json.loads((folder / "report.json").read_text()))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux tells it")
@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_ten_thousand(kind: str, tmp_path: Path) -> None:
    folder = model(tmp_path, width=160)
    if kind == "gguf":
        file = tmp_path / "damaged.gguf"
        cases = damaged_gguf((folder / "model.gguf").read_bytes(), folder / "model.gguf")
        report = in_a_process(lambda: many(cases, file, lambda: open_whole_gguf(file)), tmp_path)
    else:
        other = foreign(folder, tmp_path / "foreign")
        file = other / "model.safetensors"
        report = in_a_process(lambda: many(damaged_safetensors(file.read_bytes()), file, lambda: load_network(other)), tmp_path)
    print(f"{kind}: {report.outcomes}, at most {report.peak:.2f} times the file")
    assert not report.failures, report.failures[:10]
    assert sum(report.outcomes.values()) == MANY
