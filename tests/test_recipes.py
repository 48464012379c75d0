"""Every YAML that ships: it parses in its place, and every recipe trains, saves, resumes, and opens in transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from framework import checkpoint

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
SMOKE = "configs/trainer/smoke.yaml"
SMALL = ["--data.batch_size", 2, "--data.context_length", 32, "--data.validation_fraction", 0.2]

Framework = Callable[..., Any]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


def on_corpus(corpus: Path) -> list[Any]:
    return ["--data.dataset", "TextFiles", "--data.dataset.paths", corpus]


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_every_part_parses_in_its_place(path: Path, framework: Framework, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`configs/<key>/<name>.yaml` holds that key's value: every recipe takes it, and it arrives whole."""
    monkeypatch.chdir(tmp_path)
    key = {"trainer": "trainer", "dataset": "data.dataset"}.get(path.parent.name, f"model.{path.parent.name}")
    printed = framework("fit", "--config", "recipes/pretrain.yaml", f"--{key}", path.relative_to(ROOT), "--print_config")
    assert printed.code == 0, printed.err
    arrived = yaml.safe_load(printed.out)
    for word in key.split("."):
        arrived = arrived.get("init_args", arrived)[word]
    assert covers(arrived, yaml.safe_load(path.read_text())), arrived


def covers(arrived: Any, written: Any) -> bool:
    """Whether everything that a file says is there: defaults come in addition, bare names are expanded, paths belong to the file."""
    if isinstance(written, dict):
        return all(key in ("path", "paths") or (key in arrived and covers(arrived[key], value)) for key, value in written.items())
    if isinstance(written, str) and isinstance(arrived, str):
        return arrived == written or arrived.endswith(f".{written}")
    return bool(arrived == written)


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_every_recipe_trains_saves_resumes_and_reloads(
    path: Path, framework: Framework, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "--config", f"recipes/{path.name}", "--trainer", SMOKE, "--trainer.accelerator", "cpu", *on_corpus(corpus), *SMALL]
    if yaml.safe_load(path.read_text())["data"]["init_args"]["tokenizer"] != "Character":
        fit += ["--data.tokenizer.vocab_size", 300]
    started = framework(*fit)
    assert started.code == 0, started.err
    run = tmp_path / "runs" / path.stem
    assert (run / "config.yaml").is_file() and (run / "logs" / "metrics.jsonl").is_file()
    network, tokenizer = checkpoint.load(run / "model")
    assert network.vocab_size == tokenizer.vocab_size and not network.training

    resumed = framework(*fit, "--resume", "auto", "--trainer.max_steps", 4)
    assert resumed.code == 0, resumed.err
    states = sorted((run / "checkpoints").glob("*.ckpt"))
    assert [state.stem for state in states] == ["step-00000002", "step-00000004"]
    later = checkpoint.load_network(run / "model")
    trained = torch.load(states[-1], weights_only=True)["state_dict"]
    for name, tensor in later.state_dict().items():
        assert torch.equal(tensor, trained[f"network.{name}"]), name
    assert any(not torch.equal(one, other) for one, other in zip(network.parameters(), later.parameters(), strict=True))


SHAPES = {
    "gpt2": {"feedforward": "gelu_tanh", "qkv_bias": True, "out_bias": True, "feedforward_bias": True, "norm_bias": True},
    "llama": {"norm": "rms", "positions": "rotary", "feedforward": "swiglu", "num_kv_heads": 2, "tied_embeddings": False},
}
ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
TEXT = "The cat sat on the mat.  It's 12 o'clock\n\n\tin São Paulo 🐈 <|endoftext|>"


@pytest.mark.parametrize("kind", SHAPES)
def test_transformers_opens_what_was_trained(
    kind: str, framework: Framework, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same logits within 1e-4 in fp32, the same ids, with no export step."""
    monkeypatch.chdir(tmp_path)
    shape = {"num_layers": 2, "width": 32, "num_heads": 4, **SHAPES[kind]}
    network = json.dumps({"class_path": "Transformer", "init_args": {"shape": shape}})
    trainer = ["--trainer", SMOKE, "--trainer.accelerator", "cpu", "--trainer.max_steps", 20]
    words = ["--name", kind, "--model.network", network, "--data.tokenizer.vocab_size", 300, *trainer]
    made = framework("fit", "--config", "recipes/pretrain.yaml", *on_corpus(corpus), *SMALL, *words)
    assert made.code == 0, made.err
    directory = tmp_path / "runs" / kind / "model"

    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs, loading = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    assert type(theirs).__name__ == ARCHITECTURES[kind]
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    ours, tokenizer = checkpoint.load(directory)
    their_tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = tokenizer.encode(TEXT)
    assert their_tokenizer.encode(TEXT, split_special_tokens=True, add_special_tokens=False) == ids
    assert their_tokenizer.decode(ids) == tokenizer.decode(ids) == TEXT
    assert their_tokenizer.eos_token_id == tokenizer.eos_id
    ids_BT = torch.tensor([tokenizer.encode("The dog looked at the house. A bird ran.")[:32]])
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(ids_BT)), theirs(ids_BT).logits[..., : ours.vocab_size], atol=1e-4, rtol=0)
