"""Adapters in peft's form: ours on the exported base in transformers, and theirs here, computed by hand and, where it is installed, by peft."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from framework import checkpoint
from framework.chat import ChatTemplate
from framework.errors import CheckpointError
from framework.formats import known
from framework.formats.peft import load_adapter, save_adapter, save_beside
from framework.formats.phi3 import Phi3
from framework.networks.lora import LoRA
from framework.networks.scalar_head import ScalarHead
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte

SHAPES = {
    "gpt2": NetworkShape(2, 32, 4, feedforward="gelu_tanh", qkv_bias=True, out_bias=True, feedforward_bias=True, norm_bias=True),
    "llama": NetworkShape(2, 32, 4, 2, feedforward="swiglu", norm="rms", positions="rotary", tied_embeddings=False),
}
UNPUBLISHED = NetworkShape(2, 32, 4, qk_norm=True)
IDS_BT = torch.randint(Byte().vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def exported(directory: Path, shape: NetworkShape) -> Path:
    """The directory of a base of random weights, large enough to make its logits differ."""
    torch.manual_seed(0)
    network = Transformer(shape, Byte().vocab_size, 16)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    checkpoint.save(directory, network, Byte(), {})
    return directory


def trained(base: Path, **arguments: Any) -> LoRA:
    torch.manual_seed(1)
    network = LoRA(lambda **sizes: checkpoint.load_network(base), **arguments)
    with torch.no_grad():
        for adapter in network.adapters(network.names[0]).values():
            adapter.B_OR.normal_(std=0.1)
    return network.eval()


@torch.no_grad()
def logits_of(network: Any) -> Tensor:
    logits: Tensor = network.logits(network(IDS_BT))
    return logits


@torch.no_grad()
def by_hand(base: Path, adapter: Path) -> Tensor:
    """transformers' own network with W + alpha / r B A where adapter_model.safetensors has something."""
    network = transformers.AutoModelForCausalLM.from_pretrained(base)
    config, tensors = json.loads((adapter / "adapter_config.json").read_text()), load_file(adapter / "adapter_model.safetensors")
    for name, A in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        theirs = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        rank, alpha = (
            next((value for key, value in config[pattern].items() if re.search(f"{key}$", theirs)), config[field])
            for pattern, field in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
        )
        assert len(A) == rank
        ends = [end for end in config["target_modules"] if f".{theirs}".endswith(f".{end}")]
        assert ends, f"{theirs} is no target of {config['target_modules']}"
        change = alpha / (rank**0.5 if config["use_rslora"] else rank) * tensors[name.replace("lora_A", "lora_B")] @ A
        network.get_submodule(theirs).weight.add_(change.T if config["fan_in_fan_out"] else change)
    logits: Tensor = network(IDS_BT).logits
    return logits


TRAINED: dict[str, dict[str, Any]] = {
    "all": {"rank": 4, "alpha": 12.0},
    "attention": {"targets": ["attention.out", "qkv"], "rank": 3},
    "stabilised": {"targets": ["down"], "rank": 9, "rank_stabilised": True},
    "one-layer": {"targets": ["1.attention.out"]},
}


@pytest.mark.parametrize("arguments", TRAINED.values(), ids=TRAINED)
@pytest.mark.parametrize("name", SHAPES)
def test_ours_computes_the_same_in_their_network(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    base = exported(tmp_path / "base", SHAPES[name])
    network = trained(base, **arguments)
    save_adapter(tmp_path / "adapter", network)
    with network.disabled():
        assert (logits_of(network) - by_hand(base, tmp_path / "adapter")).abs().max() > 0.01
    torch.testing.assert_close(by_hand(base, tmp_path / "adapter"), logits_of(network), rtol=0, atol=1e-5)


@pytest.mark.parametrize("arguments", TRAINED.values(), ids=TRAINED)
@pytest.mark.parametrize("shape", [*SHAPES.values(), UNPUBLISHED], ids=[*SHAPES, "unpublished"])
def test_it_comes_back_to_the_bit(tmp_path: Path, shape: NetworkShape, arguments: dict[str, Any]) -> None:
    base = exported(tmp_path / "base", shape)
    network = trained(base, dropout=0.25, adapter="mine", **arguments)
    line = save_adapter(tmp_path / "adapter", network, {"recipe": "SFT"}, Byte(), ChatTemplate(TEMPLATE))
    assert "LoRA adapter" in line
    found = load_adapter(checkpoint.load_network(base), tmp_path / "adapter")
    assert found.names == ["default"] and found.in_use == "default"
    mine, theirs = network.adapters("mine"), found.adapters("default")
    assert mine.keys() == theirs.keys()
    for at, adapter in mine.items():
        assert torch.equal(theirs[at].A_RI, adapter.A_RI) and torch.equal(theirs[at].B_OR, adapter.B_OR)
        assert theirs[at].scaling == pytest.approx(adapter.scaling, rel=1e-15) and theirs[at].dropout == 0.25
    torch.testing.assert_close(logits_of(found), logits_of(network), rtol=0, atol=1e-7)
    manifest = checkpoint.verify(tmp_path / "adapter")
    assert manifest["lineage"] == {"recipe": "SFT"} and manifest["adapter"]["base_sha256"] == network.base_digest
    assert ChatTemplate.load(tmp_path / "adapter") is not None


@pytest.mark.parametrize("arguments", [{"rank": 4, "alpha": 12.0}, {"targets": ["up"], "rank": 3, "rank_stabilised": True}])
def test_two_of_ours_are_one_of_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]) -> None:
    """Phi-3 keeps gate and up in one matrix: their adapters become one, and both get it back."""
    monkeypatch.setattr(known, "expressing", lambda _: ("Phi3", ""))
    monkeypatch.setattr(known, "named", lambda _: Phi3())
    torch.manual_seed(0)
    base = Transformer(SHAPES["llama"], 61, 16)
    untouched = copy.deepcopy(base)
    network = LoRA(lambda **sizes: base, **arguments).eval()
    with torch.no_grad():
        for adapter in network.adapters("default").values():
            adapter.B_OR.normal_(std=0.1)
    expected = network.logits(network(IDS_BT % 61))
    save_adapter(tmp_path / "adapter", network)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    fused = "base_model.model.model.layers.0.mlp.gate_up_proj.lora_"
    assert tensors[f"{fused}B.weight"].shape[0] == 2 * SHAPES["llama"].inner_width
    assert len(tensors[f"{fused}A.weight"]) == (3 if "targets" in arguments else 8)
    found = load_adapter(untouched, tmp_path / "adapter")
    torch.testing.assert_close(found.logits(found(IDS_BT % 61)), expected, rtol=0, atol=1e-6)


def test_the_file_is_small_and_its_configuration_readable(tmp_path: Path) -> None:
    base = exported(tmp_path / "base", SHAPES["gpt2"])
    config = {"model": {"init_args": {"network": {"init_args": {"rank": 2, "base": {"init_args": {"path": "runs/base/model"}}}}}}}
    save_adapter(tmp_path / "adapter", trained(base, rank=2, targets=["attention.out", "up"]), {"config": config})
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["target_modules"] == ["attn.c_proj", "c_fc"]
    assert written["base_model_name_or_path"] == "runs/base/model"
    assert written["fan_in_fan_out"] is True and written["rank_pattern"] == {} and written["r"] == 2
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < 10_000


# what peft wrote


def write_theirs(directory: Path, tensors: dict[str, Tensor], **fields: Any) -> Path:
    directory.mkdir()
    save_file(
        {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}, directory / "adapter_model.safetensors"
    )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False, "bias": "none"}
    config |= {"target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"], "fan_in_fan_out": False, "lora_dropout": 0.1}
    (directory / "adapter_config.json").write_text(json.dumps(config | fields))
    return directory


def theirs_of(ranks: dict[str, int]) -> dict[str, Tensor]:
    """Random matrices for layer ends of the Llama-shaped base."""
    generator, tensors = torch.Generator().manual_seed(4), {}
    base = transformers.LlamaConfig(hidden_size=32, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2)
    sizes = {"q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "down_proj": (32, base.intermediate_size)}
    for layer in (0, 1):
        for end, rank in ranks.items():
            outputs, inputs = sizes[end]
            name = f"model.layers.{layer}.{'mlp' if end == 'down_proj' else 'self_attn'}.{end}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) * 0.2
            tensors[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.2
    return tensors


@pytest.mark.parametrize(
    ("ranks", "fields"),
    [
        ({"q_proj": 4, "v_proj": 4}, {}),
        ({"q_proj": 4, "k_proj": 4, "v_proj": 4, "down_proj": 4}, {}),
        ({"k_proj": 4, "v_proj": 2}, {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 3}}),
        ({"q_proj": 4, "v_proj": 9}, {"rank_pattern": {r"layers\.[01]\.self_attn\.v_proj": 9}, "use_rslora": True}),
        ({"down_proj": 4}, {"init_lora_weights": "gaussian", "modules_to_save": None}),
    ],
)
def test_theirs_computes_the_same_here(tmp_path: Path, ranks: dict[str, int], fields: dict[str, Any]) -> None:
    """Queries, keys and values with an A each become one layer's, with blocks in its B; what is not there gets zeros."""
    shape = NetworkShape(2, 32, 4, 2, feedforward="swiglu", feedforward_width=128, norm="rms", positions="rotary", tied_embeddings=False)
    base = exported(tmp_path / "base", shape)
    adapter = write_theirs(tmp_path / "adapter", theirs_of(ranks), **fields)
    network = load_adapter(checkpoint.load_network(base), adapter)
    expected = by_hand(base, adapter)
    with network.disabled():
        assert (logits_of(network) - expected).abs().max() > 0.01
    torch.testing.assert_close(logits_of(network), expected, rtol=0, atol=1e-5)
    assert {one.dropout for one in network.adapters("default").values()} == {0.1}
    save_adapter(tmp_path / "again", network)
    torch.testing.assert_close(by_hand(base, tmp_path / "again"), expected, rtol=0, atol=1e-5)


def test_several_adapters_on_one_base(tmp_path: Path) -> None:
    base = exported(tmp_path / "base", SHAPES["llama"])
    one, two = trained(base), trained(base, rank=2, targets=["up"], adapter="two")
    save_adapter(tmp_path / "one", one)
    save_adapter(tmp_path / "two", two)
    network = load_adapter(checkpoint.load_network(base), tmp_path / "one", "one")
    assert load_adapter(network, tmp_path / "two", "two") is network and network.in_use == "two"
    torch.testing.assert_close(logits_of(network), logits_of(two), rtol=0, atol=1e-7)
    network.use("one")
    torch.testing.assert_close(logits_of(network), logits_of(one), rtol=0, atol=1e-7)
    with pytest.raises(CheckpointError, match=r"one: .*already"):
        load_adapter(network, tmp_path / "one", "one")
    save_adapter(tmp_path / "by-name", network, name="two")
    assert (
        load_file(tmp_path / "by-name" / "adapter_model.safetensors").keys()
        == load_file(tmp_path / "two" / "adapter_model.safetensors").keys()
    )


# mistakes


def test_another_base_is_refused(tmp_path: Path) -> None:
    base, other = exported(tmp_path / "base", SHAPES["gpt2"]), exported(tmp_path / "other", SHAPES["gpt2"])
    changed = checkpoint.load_network(other)
    with torch.no_grad():
        next(changed.parameters())[0, 0] += 1e-6
    checkpoint.save(other, changed, Byte(), {})
    save_adapter(tmp_path / "adapter", trained(base))
    load_adapter(checkpoint.load_network(base), tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=r"adapter: the adapter was trained on another base"):
        load_adapter(checkpoint.load_network(other), tmp_path / "adapter")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_damage_is_found(tmp_path: Path) -> None:
    base = exported(tmp_path / "base", SHAPES["gpt2"])
    save_adapter(tmp_path / "adapter", trained(base))
    for name in ("adapter_model.safetensors", "adapter_config.json", "framework.json"):
        whole = (tmp_path / "adapter" / name).read_bytes()
        flip(tmp_path / "adapter" / name)
        with pytest.raises(CheckpointError, match=re.escape(name)):
            load_adapter(checkpoint.load_network(base), tmp_path / "adapter")
        (tmp_path / "adapter" / name).write_bytes(whole)
    load_adapter(checkpoint.load_network(base), tmp_path / "adapter")


Q = "model.layers.0.self_attn.q_proj.lora_"


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        (lambda tensors: tensors.pop(f"{Q}A.weight"), {}, r"q_proj\.lora_A\.weight is missing"),
        (lambda tensors: tensors.update({f"{Q}A.weight": torch.zeros(5, 32)}), {}, r"shape \[5, 32\]; .* say \[4, 32\]"),
        (lambda tensors: tensors.update({f"{Q}B.weight": torch.zeros(31, 4)}), {}, r"shape \[31, 4\]; .* say \[32, 4\]"),
        (lambda tensors: tensors.update({f"{Q}B.weight": torch.full((32, 4), torch.nan)}), {}, "NaN"),
        (
            lambda tensors: tensors.update({"model.layers.7.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32)}),
            {},
            r"unexpected.*layers\.7",
        ),
        (lambda tensors: tensors.update({"model.embed_tokens.lora_embedding_A": torch.zeros(4, 32)}), {}, r"unexpected.*embedding_A"),
        (lambda tensors: tensors.clear(), {}, "holds no tensors"),
        (lambda tensors: None, {"use_dora": True}, "use_dora: True; supported: False"),
        (lambda tensors: None, {"bias": "all"}, "bias: 'all'; supported: 'none'"),
        (lambda tensors: None, {"modules_to_save": ["lm_head"]}, "modules_to_save"),
        (lambda tensors: None, {"peft_type": "LOHA"}, "peft_type: 'LOHA'; supported: 'LORA'"),
        (lambda tensors: None, {"init_lora_weights": "pissa"}, "may have changed the base"),
        (lambda tensors: None, {"r": None}, "has no r"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], fields: dict[str, Any], message: str
) -> None:
    base, tensors = exported(tmp_path / "base", SHAPES["llama"]), theirs_of({"q_proj": 4})
    change(tensors)
    adapter = write_theirs(tmp_path / "adapter", tensors, **fields)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_adapter(checkpoint.load_network(base), adapter)
    assert str(adapter) in str(caught.value)


def test_what_is_no_adapter(tmp_path: Path) -> None:
    base = exported(tmp_path / "base", SHAPES["llama"])
    network = checkpoint.load_network(base)
    for place in (base, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"no adapter in .* \(no adapter_config.json\)"):
            load_adapter(network, place)
    save_adapter(tmp_path / "adapter", trained(base))
    with pytest.raises(CheckpointError, match="is an adapter and no model"):
        checkpoint.load_network(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="no directory of ours"):
        save_adapter(tmp_path, trained(base))


# the model directory of a LoRA


@pytest.mark.parametrize("shape", [*SHAPES.values(), UNPUBLISHED], ids=[*SHAPES, "unpublished"])
def test_a_model_directory_holds_the_merged_network(tmp_path: Path, shape: NetworkShape) -> None:
    network = trained(exported(tmp_path / "base", shape))
    checkpoint.save(tmp_path / "run" / "model", network, Byte(), {"recipe": "SFT"}, template=ChatTemplate(TEMPLATE))
    found = checkpoint.load_network(tmp_path / "run" / "model")
    assert type(found) is Transformer and found.init_args == network.base.init_args
    torch.testing.assert_close(logits_of(found), logits_of(network), rtol=0, atol=1e-5)
    manifest = checkpoint.verify(tmp_path / "run" / "model")
    assert manifest["lineage"] == {"recipe": "SFT", "base_sha256": network.base_digest}
    assert "chat_template.jinja" in manifest["files"]
    if shape is not UNPUBLISHED:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
        with torch.no_grad():
            torch.testing.assert_close(theirs(IDS_BT).logits, logits_of(network), rtol=0, atol=1e-5)
    assert "LoRA adapter" in (save_beside(tmp_path / "run" / "model", network, {}, Byte()) or "")
    save_beside(tmp_path / "run" / "other", network, {}, Byte())
    assert {place.name for place in (tmp_path / "run").iterdir()} == {"model", "adapter", "other-adapter"}
    assert save_beside(tmp_path / "run" / "model", found, {}, Byte()) is None


def test_a_reward_model_s_base_is_merged(tmp_path: Path) -> None:
    base = exported(tmp_path / "base", SHAPES["llama"])
    network = ScalarHead(lambda **sizes: trained(base)).eval()
    checkpoint.save(tmp_path / "model", network, Byte(), {})
    found = checkpoint.load_network(tmp_path / "model")
    assert isinstance(found, ScalarHead) and type(found.base) is Transformer
    lengths = torch.tensor([16, 9])
    with torch.no_grad():
        torch.testing.assert_close(
            found.scores(IDS_BT, lengths, 0 * lengths), network.scores(IDS_BT, lengths, 0 * lengths), rtol=0, atol=1e-5
        )


# peft itself


@pytest.mark.parametrize("arguments", TRAINED.values(), ids=TRAINED)
@pytest.mark.parametrize("name", SHAPES)
def test_peft_loads_ours(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    base = exported(tmp_path / "base", SHAPES[name])
    network = trained(base, **arguments)
    config = {"model": {"init_args": {"network": {"init_args": {"base": {"init_args": {"path": str(base)}}}}}}}
    save_adapter(tmp_path / "adapter", network, {"config": config})
    given = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    found = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        for theirs in (given, found, given.merge_and_unload()):
            torch.testing.assert_close(theirs(IDS_BT).logits, logits_of(network), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("gpt2", {"target_modules": ["c_attn"], "r": 4}),
        ("gpt2", {"target_modules": "all-linear", "r": 3, "lora_alpha": 5, "use_rslora": True}),
        ("llama", {"target_modules": ["q_proj", "v_proj"], "r": 4}),
        ("llama", {"target_modules": "all-linear", "r": 4, "rank_pattern": {"k_proj": 2, "1.mlp.down_proj": 6}, "alpha_pattern": {"v_proj": 9}}),
        ("llama", {"target_modules": ["gate_proj", "o_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}),
    ],
)  # fmt: skip
def test_we_load_peft_s(tmp_path: Path, name: str, fields: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    base = exported(tmp_path / "base", SHAPES[name])
    torch.manual_seed(2)
    config = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, fan_in_fan_out=name == "gpt2", **fields)
    theirs = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = theirs(IDS_BT).logits
    network = load_adapter(checkpoint.load_network(base), tmp_path / "adapter")
    with network.disabled():
        assert (logits_of(network) - expected).abs().max() > 0.01
    torch.testing.assert_close(logits_of(network), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits_of(network.merged()), expected, rtol=0, atol=1e-5)
