"""What --init_from's model becomes: transformers computes the same with the saved config, adapters find their base, types are as said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from framework import checkpoint
from framework.errors import CheckpointError, ConfigError
from framework.formats import sealed
from framework.formats.adaptation import Adaptation
from framework.formats.peft import load_adapter, save_adapter
from framework.formats.pretrained import pretrained
from framework.networks.base import Network
from framework.networks.lora import LoRA
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte

STORED, NEW = Byte(("<|endoftext|>",)), ["<|im_start|>", "<|im_end|>"]
TOKENIZER = STORED.extended(NEW)
LLAMA: dict[str, Any] = {"feedforward": "swiglu", "norm": "rms", "positions": "rotary", "num_kv_heads": 2}
SHAPES = {
    "tied": NetworkShape(2, 64, 4, **LLAMA),
    "untied": NetworkShape(2, 64, 4, tied_embeddings=False, **LLAMA),
    "qwen3": NetworkShape(2, 64, 4, qk_norm=True, **LLAMA),
    "gpt2": NetworkShape(2, 64, 4, feedforward="gelu_tanh", qkv_bias=True, out_bias=True, feedforward_bias=True, norm_bias=True),
}
CONTEXT_LENGTH = 32


def stored(directory: Path, name: str = "tied", dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(0)
    network = Transformer(SHAPES[name], STORED.vocab_size, CONTEXT_LENGTH)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    checkpoint.save(directory, network.to(dtype), STORED, {})
    return directory


def ids_of(length: int, vocab_size: int = TOKENIZER.vocab_size) -> Tensor:
    return torch.randint(vocab_size, (2, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits_of(network: Network, ids: Tensor) -> Tensor:
    return network.eval().logits(network(ids))


def adapted(directory: Path, **settings: Any) -> Network:
    return pretrained(directory, Adaptation(**settings))(vocab_size=TOKENIZER.vocab_size if settings.get("new_tokens") else None)


@pytest.mark.parametrize("kind", ["yarn", "llama3", "linear"])
@pytest.mark.parametrize("name", ["tied", "untied", "qwen3"])
def test_transformers_computes_the_longer_context(name: str, kind: Any, tmp_path: Path) -> None:
    """At four times the trained length, on all of it."""
    network = adapted(stored(tmp_path / "base", name), context_length=128, rotary_scaling=kind, new_tokens=tuple(NEW))
    checkpoint.save(tmp_path / "model", network, TOKENIZER, {})
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["max_position_embeddings"] == 128 and config["rope_parameters"]["factor"] == 4.0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids_of(128)).logits, logits_of(network, ids_of(128)), rtol=0, atol=1e-4)
    again = checkpoint.load_network(tmp_path / "model")
    assert torch.equal(logits_of(again, ids_of(128)), logits_of(network, ids_of(128)))
    unscaled = pretrained(tmp_path / "base", Adaptation(new_tokens=tuple(NEW)))(vocab_size=TOKENIZER.vocab_size, context_length=128)
    assert (logits_of(unscaled, ids_of(128)) - logits_of(network, ids_of(128))).abs().max() > 0.01


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_opens_a_resized_model(name: str, tmp_path: Path) -> None:
    before = checkpoint.load_network(stored(tmp_path / "base", name))
    network = adapted(tmp_path / "base", new_tokens=tuple(NEW))
    checkpoint.save(tmp_path / "model", network, TOKENIZER, {})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert theirs.config.vocab_size == len(tokenizer) == TOKENIZER.vocab_size
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids_of(20)).logits, logits_of(network, ids_of(20)), rtol=0, atol=1e-4)
    old = ids_of(20, STORED.vocab_size)
    torch.testing.assert_close(logits_of(network, old)[..., : STORED.vocab_size], logits_of(before, old), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("settings", "dtype"), [({}, torch.bfloat16), ({"dtype": "float32"}, torch.float32)])
def test_types(settings: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    network = adapted(stored(tmp_path / "base", dtype=torch.bfloat16), **settings)
    assert {parameter.dtype for parameter in network.parameters()} == {dtype}
    back = adapted(stored(tmp_path / "wide"), dtype="bfloat16")
    assert {parameter.dtype for parameter in back.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "settings", "saying"),
    [
        ("gpt2", {"context_length": 64}, "base cannot be adapted: .* this network has learned positions"),
        ("tied", {"context_length": 16}, "16 is not longer than the network's own 32"),
        ("tied", {"quantize": "int8"}, "only under a LoRA is a network quantised"),
    ],
)
def test_what_cannot_be(name: str, settings: dict[str, Any], saying: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=saying):
        adapted(stored(tmp_path / "base", name), **settings)


# adapters


@torch.no_grad()
def trained(base: Path, adapt: Adaptation, **arguments: Any) -> LoRA:
    torch.manual_seed(1)
    network = LoRA(pretrained(base, adapt), rank=4, new_ids=len(adapt.new_tokens), vocab_size=TOKENIZER.vocab_size, **arguments)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.3 if "rows" in name else 0.05)
    return network


ADAPTED = {
    "tokens": Adaptation(new_tokens=tuple(NEW)),
    "everything": Adaptation(dtype="bfloat16", context_length=64, new_tokens=tuple(NEW)),
}


@pytest.mark.parametrize("quantize", [None, "int4"])
@pytest.mark.parametrize("which", ADAPTED)
@pytest.mark.parametrize("name", ["tied", "untied", "qwen3"])
def test_an_adapter_goes_onto_the_model_as_it_was(name: str, which: str, quantize: Any, tmp_path: Path) -> None:
    """Exactly, though the run had resized, lengthened, cast and quantised it."""
    base = stored(tmp_path / "base", name)
    network = trained(base, ADAPTED[which], quantize=quantize)
    save_adapter(tmp_path / "adapter", network, tokenizer=TOKENIZER)
    found = load_adapter(checkpoint.load_network(base), tmp_path / "adapter")
    expected, merged = network.merged(), found.merged()
    assert isinstance(expected, Transformer) and isinstance(merged, Transformer) and merged.shape == expected.shape
    assert (merged.vocab_size, merged.context_length) == (expected.vocab_size, expected.context_length)
    assert merged.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(tensor, expected.state_dict()[key]) for key, tensor in merged.state_dict().items())
    other = Transformer(SHAPES[name], STORED.vocab_size, CONTEXT_LENGTH)
    with pytest.raises(CheckpointError, match="trained on another base"):
        load_adapter(other, tmp_path / "adapter")


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_peft_opens_an_adapter_with_new_tokens(name: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = stored(tmp_path / "base", name)
    network = trained(base, ADAPTED["tokens"])
    save_adapter(tmp_path / "adapter", network, tokenizer=TOKENIZER)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(base)
    theirs.resize_token_embeddings(TOKENIZER.vocab_size)
    with torch.no_grad():
        found = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
        for one in (found, found.merge_and_unload()):
            torch.testing.assert_close(one(ids_of(20)).logits, logits_of(network, ids_of(20)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        (lambda config: config["trainable_token_indices"].update(embed_tokens=[257, 259]), "supported: ids that follow each other"),
        (lambda config: config["trainable_token_indices"].update(embed_tokens=[257]), "supported: ids that follow each other"),
        (lambda config: config.update(trainable_token_indices=[256, 257]), "another base"),
        (lambda config: config.pop("trainable_token_indices"), "unexpected tensors"),
    ],
)
def test_rows_that_do_not_fit(change: Any, saying: str, tmp_path: Path) -> None:
    base = stored(tmp_path / "base", "untied")
    save_adapter(tmp_path / "adapter", trained(base, ADAPTED["tokens"]), tokenizer=TOKENIZER)
    config = sealed.read_json(tmp_path / "adapter" / "adapter_config.json")
    change(config)
    manifest = sealed.read_json(tmp_path / "adapter" / "framework.json")
    (tmp_path / "adapter" / "framework.json").unlink()
    sealed.write_json(tmp_path / "adapter" / "adapter_config.json", config)
    sealed.seal(tmp_path / "adapter", {"adapter": manifest["adapter"], "lineage": {}})
    with pytest.raises(CheckpointError, match=saying):
        load_adapter(checkpoint.load_network(base), tmp_path / "adapter")
