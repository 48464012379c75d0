"""Networks of random weights against transformers' own GPT-2 and Llama: the same logits, and the same bits there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from framework.checkpoint import load_network
from framework.errors import CheckpointError
from framework.formats.base import Format
from framework.formats.gpt2 import GPT2
from framework.formats.llama import Llama
from framework.networks.transformer import Transformer
from framework.registry import registry

VOCAB_SIZE, CONTEXT_LENGTH = 97, 128

CONFIGS: dict[str, transformers.PretrainedConfig] = {
    "gpt2": transformers.GPT2Config(vocab_size=VOCAB_SIZE, n_positions=CONTEXT_LENGTH, n_embd=48, n_layer=3, n_head=4),
    "gpt2-untied-relu": transformers.GPT2Config(
        vocab_size=VOCAB_SIZE, n_positions=CONTEXT_LENGTH, n_embd=48, n_layer=2, n_head=4, n_inner=80, activation_function="relu",
        tie_word_embeddings=False, layer_norm_epsilon=1e-3,
    ),
    "llama-grouped": transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE, max_position_embeddings=CONTEXT_LENGTH, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, rms_norm_eps=1e-5,
    ),
    "llama-tied-wide-heads-biases": transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE, max_position_embeddings=CONTEXT_LENGTH, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, head_dim=16, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    ),
}  # fmt: skip


class Float64RMSNorm(nn.Module):
    """transformers' Llama norm rounds to fp32 whatever it is given; the oracle must not."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.weight, self.eps = given.weight, given.variance_epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.eps)


class Float64Rotary(nn.Module):
    def __init__(self, theta: float, head_width: int) -> None:
        super().__init__()
        self.frequencies = theta ** -(torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)

    def forward(self, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = (position_ids[..., None].double() * self.frequencies).repeat(1, 1, 2)
        return angles.cos(), angles.sin()


def in_float64(model: Any) -> Any:
    model = model.double()
    if model.config.model_type == "llama":
        for layer in model.model.layers:
            layer.input_layernorm = Float64RMSNorm(layer.input_layernorm)
            layer.post_attention_layernorm = Float64RMSNorm(layer.post_attention_layernorm)
        model.model.norm = Float64RMSNorm(model.model.norm)
        model.model.rotary_emb = Float64Rotary(model.config.rope_parameters["rope_theta"], model.config.head_dim)
    return model


def their_model(name: str) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    for parameter in model.parameters():  # norms and biases too: all of them must land in their places
        nn.init.normal_(parameter, mean=1.0 if parameter.ndim == 1 else 0.0, std=0.3 if parameter.ndim == 1 else 0.15)
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    directory = tmp_path_factory.mktemp(request.param)
    model = their_model(request.param)
    model.save_pretrained(directory)
    return model, directory


def test_logits_are_those_of_transformers(pair: tuple[Any, Path]) -> None:
    """TRAP-123, TRAP-124: 128 positions, because position 0 does not see a wrong rotation and one position hardly does."""
    model, directory = pair
    ids_BT = torch.randint(VOCAB_SIZE, (2, CONTEXT_LENGTH), generator=torch.Generator().manual_seed(1))
    network = load_network(directory)
    with torch.no_grad():
        expected = model(ids_BT).logits
        assert expected.std() > 0.5
        torch.testing.assert_close(network.logits(network(ids_BT)), expected, rtol=0, atol=1e-4)
        network, exact = network.double(), in_float64(their_copy(model))
        torch.testing.assert_close(network.logits(network(ids_BT)), exact(ids_BT).logits, rtol=0, atol=1e-10)


def their_copy(model: Any) -> Any:
    other = transformers.AutoModelForCausalLM.from_config(model.config).eval()
    other.load_state_dict(model.state_dict())
    return other


def test_weights_come_back_to_the_bit(pair: tuple[Any, Path]) -> None:
    model, directory = pair
    network = load_network(directory)
    assert isinstance(network, Transformer)
    form = formats()[model.config.architectures[0]]
    sizes = form.from_config(model.config.to_dict())
    back = form.to_theirs(network.state_dict(), sizes)
    theirs = {name: tensor for name, tensor in model.state_dict().items() if name in back}
    assert set(model.state_dict()) - set(back) <= ({"lm_head.weight"} if sizes.shape.tied_embeddings else set())
    assert all(torch.equal(back[name], tensor) and back[name].is_contiguous() for name, tensor in theirs.items())
    again = form.to_ours(back, sizes)
    assert again.keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in again.items())


def test_config_comes_back(pair: tuple[Any, Path]) -> None:
    model, _ = pair
    form = formats()[model.config.architectures[0]]
    sizes = form.from_config(model.config.to_dict())
    assert form.from_config(form.to_config(sizes))._replace(shape=sizes.shape) == sizes
    theirs = type(model.config)(**form.to_config(sizes))
    for field in form.to_config(sizes):
        assert getattr(theirs, field, None) == getattr(model.config, field, None) or field in ("rope_theta", "n_inner"), field


def formats() -> dict[str, Format]:
    return {form.architecture: form() for form in registry("framework.formats").values()}


def altered(name: str, change: dict[str, Any]) -> dict[str, Any]:
    return CONFIGS[name].to_dict() | change


@pytest.mark.parametrize(
    ("form", "name", "change", "message"),
    [
        (GPT2(), "gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: True"),
        (GPT2(), "gpt2", {"activation_function": "silu"}, "activation_function: 'silu'"),
        (GPT2(), "gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        (GPT2(), "gpt2", {"attn_pdrop": 0.5}, "attn_pdrop"),
        (GPT2(), "gpt2", {"n_layer": None}, "no n_layer"),
        (Llama(), "llama-grouped", {"hidden_act": "relu"}, "hidden_act: 'relu'"),
        (Llama(), "llama-grouped", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling"),
        (Llama(), "llama-grouped", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        (Llama(), "llama-grouped", {"attention_dropout": 0.1}, "attention_dropout"),
    ],
)
def test_a_field_we_do_not_compute_is_refused_by_name(form: Format, name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        form.from_config(altered(name, change))


def test_transformers_4_kept_the_rotary_base_elsewhere() -> None:
    config = altered("llama-grouped", {"rope_theta": 777.0})
    del config["rope_parameters"]
    assert Llama().from_config(config).shape.rotary_theta == 777.0
