"""A published model becomes a directory of ours: every architecture's tensors checked and cast, in the memory of a few of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from framework import checkpoint
from framework.checkpoint import load_network
from framework.errors import CheckpointError
from framework.formats import convert, known, own
from framework.formats.importing import import_model
from framework.formats.weights import InMemory
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte

LLAMA = NetworkShape(2, 32, 4, 2, feedforward="swiglu", norm="rms", positions="rotary")
GPT2 = NetworkShape(2, 32, 4)


def foreign(directory: Path, shape: NetworkShape, dtype: torch.dtype = torch.float32) -> Path:
    """A Hugging Face directory with all that others write beside the weights."""
    torch.manual_seed(0)
    checkpoint.save(directory, Transformer(shape, Byte().vocab_size, 64).to(dtype), Byte(), {}, {"temperature": 0.6})
    (directory / "framework.json").unlink()
    return directory


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return foreign(tmp_path / "llama", LLAMA)


def rewrite(directory: Path, **tensors: Tensor | None) -> None:
    found = load_file(directory / "model.safetensors")
    changes = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in (found | changes).items() if tensor is not None}
    save_file(kept, directory / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("shape", [LLAMA, GPT2])
def test_it_is_the_same_model(tmp_path: Path, shape: NetworkShape) -> None:
    directory = foreign(tmp_path / "theirs", shape)
    told: list[int] = []
    import_model(directory, tmp_path / "ours", progress=lambda done, total: told.append(done))
    theirs, ours = (load_file(place / "model.safetensors") for place in (directory, tmp_path / "ours"))
    assert theirs.keys() == ours.keys() and all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())
    assert told[-1] == sum(tensor.nbytes for tensor in theirs.values())
    assert json.loads((tmp_path / "ours" / "generation_config.json").read_text())["temperature"] == 0.6
    one, other = load_network(directory), load_network(tmp_path / "ours")
    assert one.init_args == other.init_args


def test_the_type_of_the_weights(tmp_path: Path, llama: Path) -> None:
    import_model(llama, tmp_path / "half", torch.bfloat16)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    rewrite(llama, model__norm__weight=torch.ones(32).half())
    import_model(llama, tmp_path / "widest")
    assert {tensor.dtype for tensor in load_file(tmp_path / "widest" / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model__norm__weight": None}, r"model\.norm\.weight of LlamaForCausalLM is missing"),
        ({"model__norm__weight": torch.ones(33)}, r"model\.norm\.weight has shape \[33\]; the config says \[32\]"),
        ({"extra": torch.ones(2)}, "unexpected tensors for LlamaForCausalLM: extra"),
        ({"model__norm__weight": torch.full((32,), float("nan"))}, r"norm\.weight holds NaN or infinite"),
        ({"lm_head__weight": torch.zeros(260, 32)}, r"unexpected tensors .*lm_head\.weight"),
    ],
)
def test_what_does_not_fit_is_named_and_leaves_nothing(llama: Path, tmp_path: Path, tensors: dict[str, Any], message: str) -> None:
    rewrite(llama, **tensors)
    with pytest.raises(CheckpointError, match=message):
        import_model(llama, tmp_path / "ours")
    with pytest.raises(CheckpointError, match=message):
        load_network(llama)
    assert [path.name for path in tmp_path.iterdir()] == ["llama"]


def test_values_too_large_for_the_type(llama: Path, tmp_path: Path) -> None:
    rewrite(llama, model__norm__weight=torch.full((32,), 1e6))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds values too large for float16: take bfloat16 or float32"):
        import_model(llama, tmp_path / "ours", torch.float16)
    import_model(llama, tmp_path / "ours", torch.bfloat16)


def test_a_tied_table_may_be_stored_twice(llama: Path, tmp_path: Path) -> None:
    rewrite(llama, lm_head__weight=load_file(llama / "model.safetensors")["model.embed_tokens.weight"].clone())
    import_model(llama, tmp_path / "ours")
    assert "lm_head.weight" not in load_file(tmp_path / "ours" / "model.safetensors")
    load_network(llama)


def test_a_bias_that_has_to_be_zero(tmp_path: Path) -> None:
    """GPT-2 without biases is stored with zero biases, and only zeros are taken for it."""
    directory = foreign(tmp_path / "theirs", GPT2)
    stored = load_file(directory / "model.safetensors")
    name, form, sizes = known.described(json.loads((directory / "config.json").read_text()))
    without = known.sizes(Transformer(GPT2, Byte().vocab_size, 64))
    assert name == "GPT2" and sizes.shape.qkv_bias and not without.shape.qkv_bias
    dict(convert.to_ours(form, InMemory(stored), without))
    stored["transformer.h.0.attn.c_attn.bias"][5] = 1.0
    with pytest.raises(CheckpointError, match=r"c_attn\.bias is not zero, and this network has no place for it"):
        dict(convert.to_ours(form, InMemory(stored), without))


@pytest.mark.parametrize("shape", [LLAMA, GPT2])
def test_streamed_is_whole(shape: NetworkShape) -> None:
    """An entry at a time gives what the format's own conversion of everything gives."""
    torch.manual_seed(0)
    network = Transformer(shape, 50, 32)
    sizes, ours = known.sizes(network), own.to_tensors(network)
    form = known.named(known.expressing(network)[0] or "")
    theirs = convert.Theirs(form, ours, sizes)
    whole = form.to_theirs(ours, sizes)
    assert list(whole) == list(theirs.names)
    for name, tensor in whole.items():
        assert torch.equal(theirs.tensor(name), tensor) and theirs.shape(name) == tensor.shape and theirs.dtype(name) == tensor.dtype
    back, streamed = form.to_ours(whole, sizes), dict(convert.to_ours(form, theirs, sizes))
    assert back.keys() == streamed.keys() and all(torch.equal(tensor, streamed[name]) for name, tensor in back.items())


def test_networks_without_values_load_no_compiler() -> None:
    code = "import sys; from framework.formats import own; from framework.networks.transformer import Transformer, NetworkShape\n"
    code += "with own.without_values(): network = Transformer(NetworkShape(2, 32, 4), 50, 32)\n"
    code += "assert next(network.parameters()).is_meta; print('torch._dynamo' in sys.modules, 'sympy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "False"], done.stderr


MEASURED = """
import sys, resource, torch
torch.set_num_threads(1)
from pathlib import Path
from framework.checkpoint import load_network
from framework.formats.importing import import_model
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # what is mapped and looked at is counted
small, source, place = map(Path, sys.argv[2:])
import_model(small, place / "made small"); load_network(place / "made small")  # whatever is imported and allocated once
before = peak()
import_model(source, place / "made", torch.bfloat16) if sys.argv[1] == "cast" else import_model(source, place / "made") \
    if sys.argv[1] == "import" else load_network(source)
print(peak() - before)
"""


def memory(work: str, small: Path, source: Path, place: Path) -> float:
    """Peak memory of a piece of work beyond what the process had, as a share of the model's size."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, work, *map(str, (small, source, place))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / (source / "model.safetensors").stat().st_size


def llama_of(directory: Path, num_layers: int, width: int) -> Path:
    return foreign(directory, NetworkShape(num_layers, width, 8, 4, feedforward="swiglu", norm="rms", positions="rotary"))


@pytest.mark.parametrize(("work", "most"), [("import", 0.5), ("cast", 0.5), ("load", 1.3)])
def test_memory(tmp_path: Path, work: str, most: float) -> None:
    """A model of 88 MB: importing takes a few tensors of it at a time, loading takes it once."""
    small, source = llama_of(tmp_path / "small", 1, 64), llama_of(tmp_path / "large", 7, 512)
    assert memory(work, small, source, tmp_path) < most


@pytest.mark.slow
@pytest.mark.parametrize(("work", "most"), [("import", 0.2), ("cast", 0.2), ("load", 1.1)])
def test_memory_of_a_large_model(tmp_path: Path, work: str, most: float) -> None:
    """The same with 0.8 GB."""
    small, source = llama_of(tmp_path / "small", 1, 64), llama_of(tmp_path / "large", 16, 1024)
    assert memory(work, small, source, tmp_path) < most
