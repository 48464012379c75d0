"""What is published gives the answers of what it was made from, says where it comes from, and is not there when it would not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from framework import checkpoint
from framework.checkpoint import load, load_network
from framework.errors import CheckpointError
from framework.formats import tensor_files
from framework.formats.peft import load_adapter, save_beside
from framework.networks.lora import LoRA
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.parity import publishing
from framework.parity.publishing import Watch, adapter_only, to_gguf, to_hugging_face
from framework.tokenizers.byte import Byte

LINEAGE = {
    "recipe": "SFT",
    "tokenizer": "abc",
    "progress": {"step": 40},
    "metrics": {"val_loss": 1.25},
    "plugins": {},
    "config": {"data": {"class_path": "Demonstrations", "init_args": {"dataset": {"class_path": "framework.datasets.JsonLines", "init_args": {"paths": "/data/chats.jsonl"}}}}},
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a model in Hugging Face's form and what our own recipes write about it."""
    torch.manual_seed(0)
    shape = NetworkShape(2, 64, 4, 2, feedforward="swiglu", norm="rms", positions="rotary")
    checkpoint.save(tmp_path / "run" / "model", Transformer(shape, Byte().vocab_size, 256), Byte(), LINEAGE)
    return tmp_path / "run"


def quick(source: Any, output: Path, kind: Any = None) -> str:
    return to_hugging_face(source, output, kind, check=False)


def test_a_hugging_face_directory(run: Path, tmp_path: Path) -> None:
    reports: list[Any] = []
    made = to_hugging_face(run, tmp_path / "mine", "BF16", watch=Watch(reported=reports.append))
    assert "LlamaForCausalLM" in made and reports[0].passed
    assert {finding.check for finding in reports[0].findings} >= {"weights, model", "answers, model"}
    network, tokenizer = load(tmp_path / "mine")
    assert next(network.parameters()).dtype == torch.bfloat16 and tokenizer.encode("a") == Byte().encode("a")
    manifest = checkpoint.verify(tmp_path / "mine")
    assert manifest["lineage"] == LINEAGE and "README.md" in manifest["files"]
    card = (tmp_path / "mine" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head == {"library_name": "transformers", "pipeline_tag": "text-generation"}
    for words in ("# mine", "| val_loss | 1.25 |", "| training step | 40 |", "JsonLines paths chats.jsonl", "vllm serve mine", "bfloat16"):
        assert words in card, card
    assert str(tmp_path) not in card and "/data" not in card


def test_where_the_base_came_from_is_told(glass: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    quick(glass.directory, base)
    assert yaml.safe_load((base / "README.md").read_text().split("---")[1])["license"] == "mit"
    network = {"class_path": "framework.networks.Pretrained", "init_args": {"path": str(base)}}
    lineage = {"recipe": "SFT", "config": {"model": {"init_args": {"network": network}}}}
    network_now, tokenizer = load(base)
    checkpoint.save(tmp_path / "child" / "model", network_now, tokenizer, lineage)
    quick(tmp_path / "child", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card and "| made from | glass |" in card and "model.safetensors (SHA-256)" in card


def test_nothing_is_published_when_anything_differs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that forgets to turn the queries; and what was at the place before stays."""
    write = tensor_files.write
    monkeypatch.setattr(tensor_files, "write", lambda directory, weights, *rest: write(directory, Turned(weights), *rest))
    with pytest.raises(CheckpointError, match=r"nothing was published.*weights.*q_proj\.weight differs.*layer 0's attention, position 1"):
        to_hugging_face(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    quick(run, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="nothing was published"):
        to_hugging_face(run, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


class Turned:
    """Weights whose queries are stored in another order."""

    def __init__(self, weights: Any) -> None:
        self._weights, self.names, self.shape, self.dtype = weights, weights.names, weights.shape, weights.dtype

    def tensor(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._weights.tensor(name)
        if "q_proj" not in name:
            return tensor
        return tensor.reshape(4, 2, 8, 64).transpose(1, 2).reshape(64, 64).contiguous()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_a_gguf_file(run: Path, tmp_path: Path, kind: Any) -> None:
    pytest.importorskip("gguf")
    reports: list[Any] = []
    made = to_gguf(run, tmp_path / "model.gguf", kind, watch=Watch(reported=reports.append))
    assert f"LlamaForCausalLM, {kind}" in made
    assert reports[0].passed, reports[0].table()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["model.gguf", "run"]


def test_a_gguf_directory_has_a_card(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    to_gguf(run, tmp_path / "out", "Q8_0", check=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "run-Q8_0.gguf"]
    assert "llama-cli -m run-Q8_0.gguf" in (tmp_path / "out" / "README.md").read_text()


def test_a_gguf_file_that_differs_is_not_published(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    from framework.formats.gguf import writer

    monkeypatch.setattr(writer, "paired", lambda tensor, heads: tensor)
    with pytest.raises(CheckpointError, match=r"nothing was published.*q_proj\.weight differs"):
        to_gguf(run, tmp_path / "model.gguf", "F16")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_adapter_alone(run: Path, tmp_path: Path) -> None:
    network = LoRA(lambda **sizes: load_network(run / "model"))
    with torch.no_grad():
        for adapter in network.adapters("default").values():
            adapter.B_OR.normal_()
    config = {"model": {"init_args": {"network": {"init_args": {"base": {"init_args": {"path": str(run / "model")}}}}}}}
    save_beside(tmp_path / "lora" / "model", network, {"config": config}, Byte())
    assert "LoRA adapter of run" in adapter_only(tmp_path / "lora" / "adapter", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == "run"
    assert "framework generate BASE --adapter out" in (tmp_path / "out" / "README.md").read_text()
    found = load_adapter(load_network(run / "model"), tmp_path / "out").merged()
    expected = network.merged()
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in expected.state_dict().items())


def test_what_cannot_be_published(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Q8_0 is a type of GGUF files: --to gguf"):
        to_hugging_face(run, tmp_path / "out", "Q8_0")
    shape = NetworkShape(1, 32, 4, positions="rotary", norm="layer")
    checkpoint.save(tmp_path / "own", Transformer(shape, Byte().vocab_size, 64), Byte(), {})
    with pytest.raises(CheckpointError, match="no published architecture expresses"):
        to_hugging_face(tmp_path / "own", tmp_path / "out")
    assert not (tmp_path / "out").exists() and publishing.KINDS
