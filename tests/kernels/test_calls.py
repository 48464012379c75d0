"""The library is built once, rebuilt when damaged, done without where it cannot be had; attention equals float64 torch's."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from framework.kernels import calls, library
from framework.networks.attention import rotate, rotation


@pytest.mark.kernels
@pytest.mark.slow  # compiles twice
def test_a_built_library_is_found_again_and_a_damaged_one_is_rebuilt(tmp_path: Path) -> None:
    path = library.build(tmp_path)
    built = path.stat().st_mtime_ns
    assert library.build(tmp_path) == path and path.stat().st_mtime_ns == built
    sound = path.read_bytes()
    path.unlink()  # a process that has it loaded keeps its own
    path.write_bytes(sound[: len(sound) // 2])
    assert library.build(tmp_path) == path
    assert len(path.read_bytes()) == len(sound)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.kernels
def test_other_flags_or_another_processor_are_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = "g++"
    key = library._key(compiler)
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-g"))
    flags = library._key(compiler)
    monkeypatch.setattr(library, "_processor", lambda: "another")
    assert len({key, flags, library._key(compiler)}) == 3


@pytest.mark.parametrize(
    ("name", "value", "message"), [("CXX", "no-such-compiler", "need Linux and g++"), ("FRAMEWORK_KERNELS", "0", "FRAMEWORK_KERNELS=0")]
)
def test_without_a_compiler_or_switched_off_torch_computes_and_a_log_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with caplog.at_level(logging.INFO, logger=library.__name__):
        assert library.load.__wrapped__() is None
    assert len(caplog.records) == 1 and message in caplog.text


def test_a_compiler_that_fails_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'cannot compile' >&2\necho more >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("FRAMEWORK_CACHE", str(tmp_path))
    assert library.load.__wrapped__() is None
    assert [record.message for record in caplog.records] == [
        "no kernels for this machine, so torch computes instead, slower: cannot compile"
    ]


@pytest.mark.kernels
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_the_kernels_share_torch_s_openmp() -> None:
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libgomp" in line}
    assert len([file for file in loaded if ".libs/" not in file]) == 1  # wheels such as sentencepiece's hide a copy of their own


def attend_exactly(
    query: Tensor, keys: Tensor, values: Tensor, tables: Tensor, rows: Tensor, positions: Tensor, block: int, window: int | None
) -> Tensor:
    """Token by token in float64."""
    out = torch.empty(query.shape, dtype=torch.float64)
    group = query.shape[1] // keys.shape[1]
    for n, (row, last) in enumerate(zip(rows.tolist(), positions.tolist())):
        seen = torch.arange(0 if window is None else max(0, last - window + 1), last + 1)
        slots = tables[row][seen // block].long() * block + seen % block
        key, value = (memory[slots].double().repeat_interleave(group, dim=1) for memory in (keys, values))
        scores = torch.einsum("hq,thq->ht", query[n].double(), key) * query.shape[2] ** -0.5
        out[n] = torch.einsum("ht,thq->hq", scores.softmax(dim=1), value)
    return out


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(9, 3, 64), (4, 4, 20), (8, 1, 16), (5, 1, 128), (6, 2, 7)])
@pytest.mark.parametrize(("block", "window"), [(1, None), (16, None), (16, 1), (16, 50), (64, 64), (16, 300)])
def test_attention_over_a_paged_cache(dtype: torch.dtype, heads: int, kv_heads: int, width: int, block: int, window: int | None) -> None:
    torch.manual_seed(1)
    num_rows, length = 3, 400
    blocks = -(-length // block)
    tables = torch.randperm(num_rows * blocks, dtype=torch.int32).view(num_rows, blocks)
    keys, values = torch.randn(2, num_rows * blocks * block, kv_heads, width).to(dtype)
    positions = torch.tensor([0, 399, 63, 64, 127, 128, 250], dtype=torch.int32)  # chunks of the kernel end at 64
    rows = torch.tensor([0, 0, 1, 1, 2, 2, 1], dtype=torch.int32)
    query = torch.randn(len(rows), heads + 2, width)[:, 1:-1] * 2
    query = torch.cat([query, query[:, :1]], dim=1)[:, :-1]  # its rows lie apart
    exact = attend_exactly(query, keys, values, tables, rows, positions, block, window)
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        mixed = calls.attend(query, keys, values, tables, rows, positions, block, window)
        torch.testing.assert_close(mixed.double(), exact, rtol=1e-5, atol=3e-6)
        alone = [
            calls.attend(query[n : n + 1], keys, values, tables, rows[n : n + 1], positions[n : n + 1], block, window)
            for n in range(len(rows))
        ]
        assert torch.equal(mixed, torch.cat(alone))


@pytest.mark.kernels
@pytest.mark.parametrize("width", [1, 7, 16, 100, 576])
def test_rms_norm(width: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, width), torch.randn(width)
    exact = F.rms_norm(x.double(), (width,), weight.double(), 1e-5)
    torch.testing.assert_close(calls.rms_norm(x, weight, 1e-5).double(), exact, rtol=1e-6, atol=1e-6)
    assert torch.equal(calls.rms_norm(x, weight, 1e-5)[1, 2], calls.rms_norm(x[1, 2], weight, 1e-5))


@pytest.mark.kernels
@pytest.mark.parametrize("width", [2, 14, 32, 64, 80])
def test_rotation_in_place(width: int) -> None:
    torch.manual_seed(0)
    heads = torch.randn(5, 7, width)
    cosines, sines = rotation(torch.tensor([[0, 3, 4, 900, 1]]), width, 10000.0, torch.float32)
    expected = torch.cat([rotate(heads[None, :, :4], (cosines, sines))[0], heads[:, 4:]], dim=1)
    calls.rotate_(heads[:, :4], cosines, sines)
    torch.testing.assert_close(heads, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(heads[:, 4:], expected[:, 4:])


@pytest.mark.kernels
def test_attention_takes_scores_far_apart() -> None:
    keys = torch.tensor([1000.0, -1000.0, 1000.0]).view(3, 1, 1)
    values = torch.tensor([1.0, 7.0, 3.0]).view(3, 1, 1)
    one = torch.ones(1, 1, 1)
    tables, rows, positions = (torch.tensor(numbers, dtype=torch.int32) for numbers in ([[0, 1, 2]], [0], [2]))
    assert calls.attend(one, keys, values, tables, rows, positions, 1).item() == 2.0


@pytest.mark.kernels
def test_attention_passes_on_what_is_not_a_number() -> None:
    keys, values = torch.randn(2, 4, 1, 16)
    keys[1] = float("nan")
    tables, rows, positions = (torch.tensor(numbers, dtype=torch.int32) for numbers in ([[0]], [0, 0], [0, 3]))
    mixed = calls.attend(torch.randn(2, 2, 16), keys, values, tables, rows, positions, 4)
    assert mixed[0].isfinite().all() and mixed[1].isnan().all()
