"""Strict import, and shapes that a published architecture expresses by adding zeros."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from framework.errors import CheckpointError
from framework.formats.base import Format, Sizes
from framework.formats.gemma import Gemma
from framework.formats.gemma2 import Gemma2
from framework.formats.gemma3 import Gemma3
from framework.formats.gpt2 import GPT2
from framework.formats.llama import Llama
from framework.formats.mistral import Mistral
from framework.formats.phi3 import Phi3
from framework.formats.qwen2 import Qwen2
from framework.formats.qwen3 import Qwen3
from framework.formats.smollm3 import SmolLM3
from framework.networks.shape import NetworkShape, RotaryScaling
from framework.networks.transformer import Transformer

LLAMA = NetworkShape(2, 32, 4, 2, feedforward="swiglu", norm="rms", positions="rotary")
GEMMA = replace(LLAMA, feedforward="geglu_tanh", norm="rms_plus_one", scaled_embeddings=True)
SCALED = replace(GEMMA, sliding_window=4, rotary_scaling=RotaryScaling("linear", 2.0))
CASES = [
    (GPT2(), NetworkShape(2, 32, 4)),
    (GPT2(), NetworkShape(2, 32, 4, qkv_bias=True, tied_embeddings=False, feedforward="relu2")),
    (Llama(), LLAMA),
    (Llama(), NetworkShape(1, 32, 4, feedforward="geglu", norm="rms", positions="rotary", qkv_bias=True, feedforward_bias=True)),
    (Llama(), NetworkShape(1, 32, 4, feedforward="swiglu", norm="rms", positions="rotary", out_bias=True, tied_embeddings=False)),
]


def exported(form: Format, shape: NetworkShape) -> tuple[dict[str, Tensor], dict[str, Tensor], Sizes]:
    torch.manual_seed(0)
    network = Transformer(shape, 50, 16)
    sizes = Sizes(shape, 50, 16)
    return network.state_dict(), form.to_theirs(network.state_dict(), sizes), sizes


@pytest.mark.parametrize(("form", "shape"), CASES)
def test_there_and_back_is_nothing(form: Format, shape: NetworkShape) -> None:
    ours, theirs, sizes = exported(form, shape)
    assert form.objections(shape) == []
    back = form.to_ours(theirs, sizes)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in ours.items())


@pytest.mark.parametrize(("form", "shape"), CASES)
def test_what_the_config_says_takes_every_tensor(form: Format, shape: NetworkShape) -> None:
    """A reader that knows config.json alone finds just the tensors that are there, added zeros included."""
    ours, theirs, sizes = exported(form, shape)
    read = form.from_config(form.to_config(sizes))
    taken = form.to_ours(theirs, read)
    network = Transformer(*read)
    network.load_state_dict(taken)
    assert set(taken) >= set(ours)
    assert not any(taken[name].any() for name in set(taken) - set(ours))


@pytest.mark.parametrize("form", [GPT2(), Llama()])
def test_import_is_strict(form: Format) -> None:
    """TRAP-126."""
    _, theirs, sizes = exported(form, NetworkShape(1, 32, 4) if isinstance(form, GPT2) else LLAMA)
    name = next(name for name in theirs if "mlp" in name)
    with pytest.raises(CheckpointError, match=f"{name} .*is missing"):
        form.to_ours({key: tensor for key, tensor in theirs.items() if key != name}, sizes)
    with pytest.raises(CheckpointError, match=r"unexpected.*surplus\.weight"):
        form.to_ours(theirs | {"surplus.weight": torch.zeros(1)}, sizes)
    with pytest.raises(CheckpointError, match=f"{name} has shape"):
        form.to_ours(theirs | {name: theirs[name][:-1]}, sizes)
    if form.objections(LLAMA):  # a bias that this network has no place for is not dropped
        bias = next(key for key in theirs if key.endswith("ln_1.bias"))
        with pytest.raises(CheckpointError, match=f"{bias} is not zero"):
            form.to_ours(theirs | {bias: torch.ones(32)}, sizes)


def test_a_tied_table_may_be_there_twice_if_it_is_one() -> None:
    ours, theirs, sizes = exported(Llama(), LLAMA)
    table = theirs["model.embed_tokens.weight"]
    assert Llama().to_ours(theirs | {"lm_head.weight": table.clone()}, sizes).keys() == ours.keys()
    with pytest.raises(CheckpointError, match=r"unexpected.*lm_head\.weight"):
        Llama().to_ours(theirs | {"lm_head.weight": table + 1}, sizes)


def test_openai_s_own_names() -> None:
    """The first GPT-2 files: no prefix, and the causal mask among the weights."""
    ours, theirs, sizes = exported(GPT2(), NetworkShape(1, 32, 4))
    old = {name.removeprefix("transformer."): tensor for name, tensor in theirs.items()}
    mask = {"h.0.attn.bias": torch.ones(1, 1, 16, 16).tril()}
    assert GPT2().to_ours(old | mask, sizes).keys() == ours.keys()


@pytest.mark.parametrize(
    ("form", "shape", "objection"),
    [
        (GPT2(), LLAMA, "positions must be learned"),
        (GPT2(), NetworkShape(1, 32, 4, 2), "own keys and values"),
        (GPT2(), NetworkShape(1, 32, 4, head_width=16), "head_width"),
        (GPT2(), NetworkShape(1, 32, 4, sliding_window=4), "sliding_window must be null"),
        (GPT2(), NetworkShape(1, 32, 4, logit_softcap=4.0), "logit_softcap must be null"),
        (GPT2(), NetworkShape(1, 32, 4, scaled_embeddings=True), "scaled_embeddings must be false"),
        (Llama(), NetworkShape(1, 32, 4), "norm must be rms"),
        (Llama(), NetworkShape(1, 32, 4, norm="rms", positions="rotary"), "feedforward must be one of swiglu, geglu"),
        (Llama(), replace(LLAMA, qk_norm=True), "qk_norm must be false"),
        (Llama(), replace(LLAMA, sliding_window=4), "sliding_window must be null"),
        (Llama(), replace(LLAMA, unrotated_layers=(1,)), "unrotated_layers must be null"),
        (Llama(), replace(LLAMA, norm="rms_plus_one"), "norm must be rms"),
        (Mistral(), replace(LLAMA, sliding_window=4, windowed_layers=(1,)), "windowed_layers must be null"),
        (Mistral(), replace(LLAMA, qkv_bias=True), "qkv_bias must be false"),
        (Phi3(), replace(LLAMA, rotary_scaling=RotaryScaling("linear", 2.0)), "rotary_scaling must be null"),
        (Qwen2(), LLAMA, "qkv_bias must be true"),
        (Qwen2(), replace(LLAMA, qkv_bias=True, out_bias=True), "out_bias must be false"),
        (Qwen3(), LLAMA, "qk_norm must be true"),
        (SmolLM3(), replace(LLAMA, logit_softcap=1.0), "logit_softcap must be null"),
        (Gemma(), replace(GEMMA, feedforward="geglu"), "feedforward must be one of swiglu, geglu_tanh"),
        (Gemma(), LLAMA, "norm must be rms_plus_one"),
        (Gemma2(), GEMMA, "output_norms must be true"),
        (Gemma3(), replace(GEMMA, qk_norm=True, output_norms=True, attention_softcap=1.0), "attention_softcap must be null"),
        (Gemma3(), replace(SCALED, qk_norm=True, output_norms=True), "local_rotary_theta must be given"),
    ],
)
def test_what_cannot_be_expressed_is_named(form: Format, shape: NetworkShape, objection: str) -> None:
    assert objection in "; ".join(form.objections(shape))
