"""LoRA from the command line: --init_from becomes the base, checkpoints hold the adapter alone, a resumed run is the run, models load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from framework import checkpoint
from framework.commands.compose import Composition, compose
from framework.commands.fit import _take_init_from
from framework.formats.peft import load_adapter
from framework.networks.transformer import Transformer

LORA = {"class_path": "LoRA", "init_args": {"rank": 4, "dropout": 0.2, "targets": ["qkv", "down"]}}
FIT = ("fit", "--config", "base.yaml", "--config", "lora.yaml", "--init_from", "runs/parent", "--name", "child")


@pytest.fixture
def parent(place: Path, here: Path) -> Path:
    """runs/parent, a finished run, and lora.yaml, which wraps its network."""
    (here / "lora.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"network": LORA}}}))
    return shutil.copytree(place / "runs" / "base", here / "runs" / "parent")


def state(here: Path, name: str, step: int) -> dict[str, Any]:
    return torch.load(here / "runs" / name / "checkpoints" / f"step-{step:08}.ckpt", weights_only=True)


def test_a_run(parent: Path, here: Path, framework: Any) -> None:
    done = framework(*FIT)
    assert done.code == 0, done.err
    assert "note: data.tokenizer comes from runs/parent" in done.err and "model.network comes" not in done.err
    saved = yaml.safe_load((here / "runs" / "child" / "config.yaml").read_text())["model"]["init_args"]["network"]
    assert saved["class_path"].endswith("LoRA") and saved["init_args"]["rank"] == 4
    assert saved["init_args"]["base"]["init_args"]["path"] == str(here / "runs" / "parent" / "model")
    found = state(here, "child", 4)
    assert {name for name in found["state_dict"] if ".adapters.default." not in name} == {"network.base_sha256"}
    assert len(found["state_dict"]) == 1 + 2 * 2  # A and B of two layers
    assert len(found["optimizer_states"][0]["state"]) == 2 * 2
    assert (here / "runs" / "child" / "checkpoints" / "step-00000004.ckpt").stat().st_size < parent.joinpath(
        "checkpoints", "step-00000004.ckpt"
    ).stat().st_size
    merged, base = checkpoint.load_network(here / "runs" / "child" / "model"), checkpoint.load_network(parent / "model")
    assert type(merged) is Transformer
    changed = {name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, base.state_dict()[name])}
    assert changed == {"blocks.0.attention.qkv.weight", "blocks.0.feedforward.down.weight"}


def test_a_resumed_run_is_the_run(parent: Path, here: Path, framework: Any, refused: Callable[..., str]) -> None:
    assert framework(*FIT, "--trainer.max_steps", 2).code == 0
    assert framework(*FIT, "--resume", "auto").code == 0
    whole = (*FIT[:-1], "whole")
    assert framework(*whole).code == 0
    for one, other in zip(*(state(here, name, 4)["state_dict"].values() for name in ("child", "whole")), strict=True):
        assert torch.equal(one, other)
    changed = checkpoint.load_network(parent / "model")
    with torch.no_grad():
        next(changed.parameters())[0, 0] += 1e-6
    checkpoint.save(parent / "model", changed, checkpoint.load(parent / "model")[1], {})
    refused(*FIT, "--resume", "auto", "--trainer.max_steps", 6, saying=["trained on another base", "give the base"])


def test_save_model_leaves_model_and_adapter(parent: Path, here: Path, framework: Any) -> None:
    assert framework(*FIT).code == 0
    made = framework("save-model", "runs/child", "--checkpoint", "runs/child/checkpoints/step-00000002.ckpt")
    assert made.code == 0, made.err
    assert [line.rpartition("/")[2].partition(":")[0] for line in made.out.splitlines()] == ["model", "adapter"]
    network = load_adapter(checkpoint.load_network(parent / "model"), here / "runs" / "child" / "adapter")
    trained = state(here, "child", 2)["state_dict"]
    for at, adapter in network.adapters("default").items():
        assert torch.equal(adapter.B_OR, trained[f"network.base.{at}.adapters.default.B_OR"])
    config = json.loads((here / "runs" / "child" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(here / "runs" / "parent" / "model")
    words = ["a", "--temperature", 0, "--max_new_tokens", 6]
    texts = [framework("generate", *where, *words) for where in (["runs/child"], ["runs/parent", "--adapter", "runs/child"])]
    assert texts[0].code == texts[1].code == 0, texts
    assert texts[0].out == texts[1].out


def test_mistakes(parent: Path, here: Path, refused: Callable[..., str]) -> None:
    base = {"class_path": "framework.networks.Pretrained", "init_args": {"path": "runs/parent/model"}}
    network = json.dumps({**LORA, "init_args": {**LORA["init_args"], "base": base}})  # type: ignore[dict-item]
    refused(*FIT, "--model.network", network, saying=["--init_from runs/parent brings the base", "model.network.base is given too"])
    refused(*FIT, "--model.network.targets", "[q_proj]", saying=["model.network cannot be built", "'q_proj' is the end of no linear layer"])
    refused(*FIT, "--model.network.rank", "0", saying=["model.network cannot be built", "rank (0)"])
    refused("generate", "runs/parent", "a", "--adapter", "runs/parent", saying=["holds no adapter"])


def composed(*words: str) -> Composition:
    """What a configuration becomes when --init_from has been taken."""
    composition = compose(["--config", "base.yaml", "--config", "lora.yaml", "--init_from", "runs/parent", *words])
    _take_init_from(composition)
    return composition


def test_a_scalar_head_and_its_adapter_get_the_innermost_base(parent: Path) -> None:
    inner = {"class_path": "framework.networks.LoRA", "init_args": {"rank": 2}}
    network = composed("--model.network", json.dumps({"class_path": "ScalarHead", "init_args": {"base": inner}})).get("model.network")
    lora = network["init_args"]["base"]
    assert (network["class_path"], lora["class_path"]) == ("framework.networks.ScalarHead", "framework.networks.LoRA")
    pretrained = {"class_path": "framework.networks.Pretrained", "init_args": {"path": "runs/parent/model"}}
    assert lora["init_args"] == {"rank": 2, "base": pretrained}


@pytest.mark.parametrize(
    ("data", "template", "words", "taken"),
    [
        ("Demonstrations", True, [], "model"),
        ("Demonstrations", True, ["--data.chat_template", "chatml"], None),
        ("Demonstrations", False, [], None),
        ("PackedText", True, [], None),
    ],
)
def test_a_chat_template_comes_with_the_model(parent: Path, data: str, template: bool, words: list[str], taken: str | None) -> None:
    if template:
        (parent / "model" / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    composition = composed("--data", data, *words)
    found = composition.get("data.chat_template")
    assert found == (taken and str(parent / "model"))
    assert [value for key, value in composition.overrides if key == "data.chat_template"] == words[1:]
