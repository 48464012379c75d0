"""The model directory: what it holds, who can open it, and what damage, crashes and full disks do to it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from framework.checkpoint import load, load_network, save, verify
from framework.errors import CheckpointError
from framework.networks.base import Network
from framework.networks.cache import Cache
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.registry import PluginError, registry
from framework.tokenizers.byte import Byte

GPT2 = NetworkShape(2, 32, 4, dropout=0.1)
LLAMA = NetworkShape(2, 32, 4, 2, feedforward="swiglu", norm="rms", positions="rotary", tied_embeddings=False)
UNPUBLISHED = NetworkShape(2, 32, 4, qk_norm=True)
IDS_BT = torch.arange(24).reshape(2, 12)


def network_of(shape: NetworkShape, vocab_multiple: int = 1) -> Transformer:
    torch.manual_seed(0)
    return Transformer(shape, Byte().vocab_size, 16, vocab_multiple).eval()


def same(one: Network, other: Network) -> bool:
    return torch.equal(one.logits(one(IDS_BT)), other.logits(other(IDS_BT)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save(tmp_path / "model", network_of(GPT2), Byte(), {"parent": None})
    return tmp_path / "model"


@pytest.mark.parametrize("vocab_multiple", [1, 64])
@pytest.mark.parametrize("shape", [GPT2, LLAMA, UNPUBLISHED])
def test_it_comes_back_as_it_was(tmp_path: Path, shape: NetworkShape, vocab_multiple: int) -> None:
    network = network_of(shape, vocab_multiple)
    summary = save(tmp_path / "runs" / "model", network, Byte(), {"corpus": "abc"}, {"temperature": 0.8})
    found, tokenizer = load(tmp_path / "runs" / "model")
    assert isinstance(found, Transformer)
    assert found.init_args == network.init_args
    assert not found.training
    assert same(found, network)
    assert tokenizer.encode("né") == Byte().encode("né")
    assert found.roles() == network.roles()
    assert all(parameter.requires_grad for parameter in found.parameters())
    manifest = verify(tmp_path / "runs" / "model")
    assert manifest["lineage"] == {"corpus": "abc"}
    assert set(manifest["files"]) == {file.name for file in (tmp_path / "runs" / "model").iterdir()} - {"framework.json"}
    if shape is UNPUBLISHED:
        assert "no Hugging Face architecture expresses it" in summary
        assert "qk_norm must be false" in summary
        assert not (tmp_path / "runs" / "model" / "config.json").exists()
    else:
        assert f"{network.num_parameters():,} parameters" in summary


@pytest.mark.parametrize("vocab_multiple", [1, 64])
@pytest.mark.parametrize("shape", [GPT2, LLAMA])
def test_transformers_opens_it(tmp_path: Path, shape: NetworkShape, vocab_multiple: int) -> None:
    """TRAP-123."""
    transformers = pytest.importorskip("transformers")
    network = network_of(shape, vocab_multiple)
    save(tmp_path / "model", network, Byte(), {}, {"temperature": 0.8, "do_sample": True})
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report.values()), report
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS_BT).logits, network.logits(network(IDS_BT)), rtol=0, atol=1e-4)
    assert theirs.config.eos_token_id == theirs.generation_config.eos_token_id == Byte().eos_id
    assert theirs.generation_config.pad_token_id == Byte().pad_id
    assert theirs.generation_config.temperature == 0.8
    assert theirs.dtype == torch.float32
    assert theirs.config.max_position_embeddings == 16
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer("né")["input_ids"] == Byte().encode("né")


def test_weights_are_stored_once_trimmed_and_in_their_own_type(tmp_path: Path) -> None:
    """TRAP-31, TRAP-122."""
    save(tmp_path / "model", network_of(GPT2, 64).bfloat16(), Byte(), {})
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    assert "lm_head.weight" not in tensors
    assert tensors["transformer.wte.weight"].shape == (Byte().vocab_size, 32)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    assert next(load_network(tmp_path / "model").parameters()).dtype == torch.bfloat16
    assert next(load_network(tmp_path / "model", dtype=torch.float64).parameters()).dtype == torch.float64


def test_one_flipped_bit_or_a_truncation_is_found_and_named(model: Path) -> None:
    """TRAP-107, in every file."""
    draw = random.Random(0)
    for file in sorted(model.iterdir()):
        whole = file.read_bytes()
        for _ in range(5):
            place, damaged = draw.randrange(len(whole)), bytearray(whole)
            damaged[place] ^= 1 << draw.randrange(8)
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=file.name):
                load_network(model)
        file.write_bytes(whole[:-2])
        with pytest.raises(CheckpointError, match=file.name):
            load_network(model)
        file.write_bytes(whole)
    (model / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        load_network(model)


def rewrite(model: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Alter a manifest as someone would who knows how its digest is made."""
    manifest = json.loads((model / "framework.json").read_text())
    manifest.pop("sha256")
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((model / name).read_bytes()).hexdigest()
    change(manifest)
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (model / "framework.json").write_text(json.dumps(manifest | {"sha256": digest}))


@pytest.mark.parametrize(
    ("class_path", "message"),
    [
        ("os.path.join", "os.path.join is no registered network"),
        ("framework.networks.Pretrained", "Pretrained is no registered network"),
        ("framework.networks.Transformer.x", "no registered network"),
    ],
)
def test_a_manifest_never_chooses_what_is_imported(model: Path, class_path: str, message: str) -> None:
    """TRAP-146."""
    rewrite(model, lambda manifest: manifest["network"].update(class_path=class_path))
    with pytest.raises(CheckpointError, match=message):
        load_network(model)


def test_arguments_that_build_nothing(model: Path) -> None:
    rewrite(model, lambda manifest: manifest["network"]["init_args"].update(wings=2))
    with pytest.raises(CheckpointError, match=r"cannot be built from its saved arguments.*wings"):
        load_network(model)
    rewrite(model, lambda manifest: manifest["network"].update(init_args={"shape": {"num_layers": 1, "width": 33, "num_heads": 4}}))
    with pytest.raises(CheckpointError, match="width 33 is not divisible"):
        load_network(model)


def test_a_directory_of_a_newer_framework(model: Path) -> None:
    rewrite(model, lambda manifest: manifest.update(format_version=99, framework_version="9.9"))
    with pytest.raises(CheckpointError, match=r"framework 9\.9.*upgrade"):
        load_network(model)


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    """TRAP-122: safetensors takes them for values like any other."""
    network = network_of(LLAMA)
    with torch.no_grad():
        network.norm.weight[3] = float("nan")
    save(tmp_path / "model", network, Byte(), {})
    with pytest.raises(CheckpointError, match=r"norm\.weight holds NaN"):
        load_network(tmp_path / "model")


# directories of others


@pytest.fixture
def foreign(model: Path) -> Path:
    for name in ("framework.json", "tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    return model


def test_a_directory_of_others_loads_by_its_config(foreign: Path) -> None:
    found = load_network(foreign)
    assert isinstance(found, Transformer)
    assert found.shape.qkv_bias
    torch.testing.assert_close(found(IDS_BT), network_of(GPT2)(IDS_BT))


def test_shards(foreign: Path) -> None:
    expected = load_network(foreign)
    tensors = load_file(foreign / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: tensors[name].clone() for name in held}, foreign / file)
    (foreign / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}
    (foreign / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(load_network(foreign), expected)
    (foreign / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
        load_network(foreign)


def test_code_and_pickles_are_never_run(foreign: Path) -> None:
    """TRAP-121, TRAP-144."""
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "evil.py").write_text("raise SystemExit('ran')")
    (foreign / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}}))
    load_network(foreign)
    (foreign / "model.safetensors").rename(foreign / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickled \.bin weights are not read"):
        load_network(foreign)


def test_what_is_no_model_says_so(foreign: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no model directory .*nowhere"):
        load_network(tmp_path / "nowhere")
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    with pytest.raises(CheckpointError, match=r"architecture BertModel; known: .*GPT2LMHeadModel, LlamaForCausalLM"):
        load_network(foreign)
    (foreign / "config.json").write_text(json.dumps(config | {"n_head": 5}))
    with pytest.raises(CheckpointError, match=r"config\.json: width 32 is not divisible"):
        load_network(foreign)
    (foreign / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        load_network(foreign)
    (foreign / "config.json").write_text(json.dumps(config))
    weights = (foreign / "model.safetensors").read_bytes()
    (foreign / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_network(foreign)


# writing


def test_the_new_replaces_the_old_and_guests_stay(model: Path) -> None:
    (model / "NOTES.md").write_text("mine")
    save(model, network_of(LLAMA), Byte(), {})
    assert same(load_network(model), network_of(LLAMA))
    assert (model / "NOTES.md").read_text() == "mine"
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="no directory of ours"):
        save(tmp_path, network_of(GPT2), Byte(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_tokenizer_too_large_for_the_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="ids and the network only 20"):
        save(tmp_path / "model", Transformer(GPT2, 20, 16), Byte(), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit_bytes", [0, 300, 3000, 30_000])
def test_a_full_disk_leaves_the_old_directory(model: Path, limit_bytes: int) -> None:
    """TRAP-109, with the limit on a file's size in the place of the disk's."""
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        with pytest.raises(CheckpointError, match="could not be written and is as it was"):
            save(model, network_of(LLAMA), Byte(), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_a_replacement_cut_short_is_put_right(model: Path) -> None:
    model.rename(model.with_name(".model.previous"))
    assert same(load_network(model), network_of(GPT2))
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_a_save_that_was_killed_does_not_stop_the_next(model: Path) -> None:
    for left, name in ((".model.partial", "half.safetensors"), (".model.previous", "NOTES.md")):
        model.with_name(left).mkdir()
        (model.with_name(left) / name).write_text("mine")
    save(model, network_of(LLAMA), Byte(), {})
    assert same(load_network(model), network_of(LLAMA))
    assert (model / "NOTES.md").read_text() == "mine"
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_a_move_that_fails_puts_the_old_back(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move = Path.rename

    def refusing(source: Path, target: Path) -> Path:
        if source.name == ".model.partial":
            raise OSError("no")
        return move(source, target)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(CheckpointError, match="is as it was: no"):
        save(model, network_of(LLAMA), Byte(), {})
    assert same(load_network(model), network_of(GPT2))
    assert [path.name for path in model.parent.iterdir()] == ["model"]


SAVE_FOREVER = """
import sys, pathlib
from tests_checkpoint import network_of, GPT2, LLAMA
from framework.checkpoint import save
from framework.tokenizers.byte import Byte
print("ready", flush=True)
while True:
    for shape in (GPT2, LLAMA):
        save(pathlib.Path(sys.argv[1]), network_of(shape), Byte(), {})
"""


@pytest.mark.slow
def test_killed_at_any_moment_a_whole_directory_is_there(model: Path, tmp_path: Path) -> None:
    """TRAP-105: SIGKILL while two networks are saved over each other."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "tests_checkpoint.py").write_text(Path(__file__).read_text())
    draw = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, str(model)], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(tmp_path / "lib")}
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(draw.uniform(0.0, 0.2))
        assert process.poll() is None, "saving stopped by itself"
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = load_network(model)
        assert same(found, network_of(GPT2)) or same(found, network_of(LLAMA))


# networks of plugins


class Bigram(Network):
    """No format expresses it: a tied pair of tables that is registered twice, and a buffer."""

    def __init__(self, vocab_size: int, context_length: int, width: int = 8) -> None:
        super().__init__()
        self.vocab_size, self.context_length, self.width = vocab_size, context_length, width
        self.table, self.out = nn.Embedding(vocab_size, width), nn.Linear(width, vocab_size, bias=False)
        self.out.weight = self.table.weight
        self.register_buffer("scale", torch.tensor(3.0), persistent=False)

    def forward(
        self, ids_BT: Tensor, positions_BT: Tensor | None = None, documents_BT: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        found: Tensor = self.table(ids_BT) * self.scale
        return found

    @property
    def head_weight_VD(self) -> Tensor:
        return self.out.weight

    @property
    def init_args(self) -> dict[str, Any]:
        return {"vocab_size": self.vocab_size, "context_length": self.context_length, "width": self.width}

    def flops_per_token(self, length: int) -> int:
        return 6 * self.num_parameters()


@pytest.fixture
def networks() -> Iterator[Any]:
    registered = registry("framework.networks")
    yield registered
    registered._added.clear()


def test_a_plugin_s_network_is_kept_by_its_registered_name(tmp_path: Path, networks: Any) -> None:
    network = Bigram(Byte().vocab_size, 16)
    with pytest.raises(CheckpointError, match="Bigram is no registered network"):
        save(tmp_path / "model", network, Byte(), {})
    networks.add(Bigram)
    assert "this is a Bigram" in save(tmp_path / "model", network, Byte(), {})
    assert list(load_file(tmp_path / "model" / "model.safetensors")) == ["table.weight"]
    found = load_network(tmp_path / "model")
    assert isinstance(found, Bigram)
    assert same(found, network)
    assert found.out.weight is found.table.weight
    networks._added.clear()
    with pytest.raises(PluginError, match="Bigram"):
        load_network(tmp_path / "model")
