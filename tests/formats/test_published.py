"""Networks of random weights against transformers' own: the same logits and the same continuations, and the same bits there and back."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import modeling_rope_utils

from framework.engine.engine import Engine
from framework.engine.request import Request
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
from framework.kernels import calls
from framework.networks.base import Network
from framework.networks.quantized import quantize
from framework.networks.transformer import Transformer
from framework.samplers.selection import Greedy

VOCAB_SIZE, CONTEXT_LENGTH, NUM_NEW_TOKENS = 97, 128, 12
FORMS: dict[str, Format] = {
    form.model_type: form
    for form in (GPT2(), Llama(), Mistral(), Phi3(), Qwen2(), Qwen3(), SmolLM3(), Gemma(), Gemma2(), Gemma3())
}  # fmt: skip
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE, "max_position_embeddings": CONTEXT_LENGTH, "hidden_size": 48, "intermediate_size": 80,
    "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "pad_token_id": 0,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMA = {"head_dim": 16, "num_attention_heads": 4}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"vocab_size": VOCAB_SIZE, "n_positions": CONTEXT_LENGTH, "n_embd": 48, "n_layer": 3, "n_head": 4}),
    "gpt2-untied-relu": ("gpt2", {
        "vocab_size": VOCAB_SIZE, "n_positions": CONTEXT_LENGTH, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_inner": 80,
        "activation_function": "relu", "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3,
    }),
    "llama-grouped": ("llama", {}),
    "llama-tied-wide-heads-biases": ("llama", {
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "tie_word_embeddings": True, "attention_bias": True,
        "mlp_bias": True, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    }),
    "llama3": ("llama", {"rope_parameters": {**LLAMA3, "rope_theta": 500.0}}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}}),
    "llama-yarn": ("llama", {"rope_parameters": {**YARN, "rope_theta": 1e4}}),
    "llama-yarn-all-said": ("llama", {"head_dim": 20, "rope_parameters": {
        **YARN, "rope_theta": 100.0, "beta_fast": 8.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False,
    }}),
    "mistral": ("mistral", {"sliding_window": 7}),
    "mistral-no-window": ("mistral", {"sliding_window": None, "head_dim": 16}),
    "phi3": ("phi3", {"sliding_window": 9, "original_max_position_embeddings": CONTEXT_LENGTH}),
    "phi3-ungrouped-tied": ("phi3", {"num_key_value_heads": 6, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen2-windows-from": ("qwen2", {
        "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1, "tie_word_embeddings": True,
        "rope_parameters": {**YARN, "rope_theta": 1e6},
    }),
    "qwen2-windows-mixed": ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "layer_types": LAYERS}),
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3-biases-window": ("qwen3", {
        "head_dim": 10, "attention_bias": True, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2,
    }),
    "smollm3": ("smollm3", {"num_hidden_layers": 5, "no_rope_layer_interval": 2}),
    "smollm3-windows": ("smollm3", {
        "num_hidden_layers": 4, "no_rope_layers": [1, 0, 0, 1], "use_sliding_window": True, "sliding_window": 7,
        "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True,
    }),
    "gemma": ("gemma", {**GEMMA, "num_key_value_heads": 1}),
    "gemma-untied-bias": ("gemma", {**GEMMA, "tie_word_embeddings": False, "attention_bias": True}),
    "gemma2": ("gemma2", {
        **GEMMA, "num_hidden_layers": 4, "sliding_window": 7, "query_pre_attn_scalar": 11, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 5.0,
    }),
    "gemma2-uncapped": ("gemma2", {
        **GEMMA, "sliding_window": 9, "query_pre_attn_scalar": 16, "attn_logit_softcapping": None, "final_logit_softcapping": None,
        "layer_types": LAYERS[::-1][:2] + LAYERS[1:2], "hidden_activation": "silu",
    }),
    "gemma3-unwindowed": ("gemma3_text", {**GEMMA, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}),
    "gemma3": ("gemma3_text", {**GEMMA, "num_hidden_layers": 7, "sliding_window": 7, "query_pre_attn_scalar": 16}),
    "gemma3-scaled": ("gemma3_text", {
        **GEMMA, "sliding_window": 7, "query_pre_attn_scalar": 24, "final_logit_softcapping": 4.0, "layer_types": LAYERS,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        },
    }),
}  # fmt: skip
NOT_OURS = {"architectures", "dtype", "initializer_range", "transformers_version", "use_cache", "_name_or_path"}
SAME_BY_OTHER_WORDS = {  # fields that mean the same and are not written the same
    "rope_parameters": {"llama-yarn", "llama-yarn-all-said", "qwen2-windows-from"},  # what transformers works out is written down
    "no_rope_layer_interval": {"smollm3"},
    "max_window_layers": {"qwen2", "qwen2-windows-mixed", "qwen3"},
    "_sliding_window_pattern": {"gemma3-scaled", "gemma3-unwindowed"},
    "original_max_position_embeddings": {"phi3", "phi3-ungrouped-tied"},  # longrope's
    "n_inner": {"gpt2"},
}


class Case(NamedTuple):
    """A model of theirs, and the network that its files give."""

    name: str
    model: Any
    form: Format
    sizes: Sizes
    theirs: dict[str, Tensor]
    network: Transformer


def their_config(name: str) -> Any:
    model_type, changes = CONFIGS[name]
    small = {} if model_type == "gpt2" else SMALL
    return transformers.AutoConfig.for_model(model_type, **copy.deepcopy(small | changes))


def their_model(name: str) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(their_config(name)).eval()
    centre = 0.0 if model.config.model_type.startswith("gemma") else 1.0
    for parameter in model.parameters():  # norms and biases too: all of them must land in their places
        nn.init.normal_(parameter, mean=centre if parameter.ndim == 1 else 0.0, std=0.3 if parameter.ndim == 1 else 0.15)
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    directory = tmp_path_factory.mktemp(request.param)
    model = their_model(request.param)
    model.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    form = FORMS[config["model_type"]]
    assert config["architectures"] == [form.architecture]
    sizes, theirs = form.from_config(config), load_file(directory / "model.safetensors")
    network = Transformer(*sizes).eval()
    network.load_state_dict(form.to_ours(theirs, sizes))
    return Case(request.param, model, form, sizes, theirs, network)


# in float64


class Float64RMSNorm(nn.Module):
    """transformers' norms round to fp32 whatever they are given; the oracle must not."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        adds_one = type(given).__name__.startswith("Gemma")
        self.weight, self.eps = given.weight + 1 if adds_one else given.weight, given.eps if adds_one else given.variance_epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.eps)


class Wide:
    """torch, with float64 where transformers' rotary functions say float32."""

    float = float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class Float64Rotary(nn.Module):
    def __init__(self, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        parameters = config.rope_parameters
        nested = {None: parameters} if "rope_type" in parameters else parameters
        self.by_type: dict[str | None, tuple[Tensor, float]] = {}
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        for layer_type, given in nested.items():
            exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
            self.by_type[layer_type] = given["rope_theta"] ** -exponents, 1.0
            if given["rope_type"] != "default":
                with monkeypatch.context() as patch:
                    patch.setattr(modeling_rope_utils, "torch", Wide())
                    compute = modeling_rope_utils.ROPE_INIT_FUNCTIONS[given["rope_type"]]
                    self.by_type[layer_type] = compute(config, torch.device("cpu"), layer_type=layer_type)

    def forward(self, hidden: Tensor, position_ids: Tensor, layer_type: str | None = None) -> tuple[Tensor, Tensor]:
        frequencies, factor = self.by_type[layer_type]
        assert frequencies.dtype == torch.float64
        angles = (position_ids[..., None].double() * frequencies).repeat(1, 1, 2)
        return angles.cos() * factor, angles.sin() * factor


def in_float64(model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A copy without transformers' islands of fp32: norms, rotations, the softmax of its plain attention, the embeddings' scale."""
    softmax = torch.softmax
    monkeypatch.setattr(nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim))
    copied = copy.deepcopy(model).double()
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if type(child).__name__.endswith("RMSNorm"):
                setattr(module, name, Float64RMSNorm(child))
            elif type(child).__name__.endswith("RotaryEmbedding"):
                setattr(module, name, Float64Rotary(model.config, monkeypatch))
            elif hasattr(child, "scalar_embed_scale"):
                child.embed_scale = torch.tensor(child.scalar_embed_scale, dtype=torch.float64)
    return copied


def filled(sizes: Sizes) -> Sizes:
    """With the defaults that follow from other fields written down, as one of two configs may have them."""
    shape = sizes.shape
    return sizes._replace(
        shape=replace(shape, num_kv_heads=shape.kv_heads, head_width=shape.query_width, feedforward_width=shape.inner_width)
    )


# the laws


def test_logits_are_those_of_transformers(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRAP-123, TRAP-124: 128 positions, because position 0 does not see a wrong rotation and one position hardly does."""
    ids_BT = torch.randint(VOCAB_SIZE, (2, CONTEXT_LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = case.model(ids_BT).logits
        assert expected.std() > 0.5
        torch.testing.assert_close(case.network.logits(case.network(ids_BT)), expected, rtol=0, atol=1e-4)
        network, exact = copy.deepcopy(case.network).double(), in_float64(case.model, monkeypatch)
        torch.testing.assert_close(network.logits(network(ids_BT)), exact(ids_BT).logits, rtol=0, atol=1e-10)


def test_weights_come_back_to_the_bit(case: Case) -> None:
    back = case.form.to_theirs(case.network.state_dict(), case.sizes)
    assert back.keys() == case.theirs.keys()
    assert all(torch.equal(back[name], tensor) and back[name].is_contiguous() for name, tensor in case.theirs.items())
    again = case.form.to_ours(back, case.sizes)
    assert again.keys() == case.network.state_dict().keys()
    assert all(torch.equal(tensor, case.network.state_dict()[name]) for name, tensor in again.items())


def test_what_we_write_is_their_model(case: Case, tmp_path: Path) -> None:
    """AutoConfig reads every field as it was, and AutoModel gives the same logits to the bit."""
    assert case.form.objections(case.sizes.shape) == []
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    names = {"architectures": [case.form.architecture], "model_type": case.form.model_type}
    config = {**names, **ids, **case.form.to_config(case.sizes)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(case.form.to_theirs(case.network.state_dict(), case.sizes), tmp_path / "model.safetensors", {"format": "pt"})
    read, before = transformers.AutoConfig.from_pretrained(tmp_path).to_dict(), case.model.config.to_dict()
    for name in before.keys() - NOT_OURS - ids.keys():
        if case.name not in SAME_BY_OTHER_WORDS.get(name, ()):
            assert read[name] == before[name], name
    assert filled(case.form.from_config(read)) == filled(case.sizes)
    ids_BT = torch.arange(CONTEXT_LENGTH)[None] % VOCAB_SIZE
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        assert torch.equal(theirs(ids_BT).logits, case.model(ids_BT).logits)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(VOCAB_SIZE, (length,), generator=generator).tolist() for length in (100, 41)]


def replies(network: Network) -> list[list[int]]:
    """Of all prompts together, through the cache."""
    engine = Engine(network)
    numbers = [engine.add(Request(prompt, NUM_NEW_TOKENS, [Greedy()])) for prompt in prompts()]
    found: dict[int, list[int]] = {number: [] for number in numbers}
    while engine.num_active:
        for event in engine.step():
            found[event.request_id].append(event.token_id)
    return [found[number] for number in numbers]


def test_generation_is_that_of_transformers(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy, batched, through the engine's cache, beyond every window; with our kernels and without."""
    settings = transformers.GenerationConfig(do_sample=False, max_new_tokens=NUM_NEW_TOKENS, pad_token_id=0)
    expected = [
        case.model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), generation_config=settings)[0, len(prompt) :]
        for prompt in prompts()
    ]
    assert replies(case.network) == [tokens.tolist() for tokens in expected]
    monkeypatch.setattr(calls, "available", lambda: False)
    monkeypatch.setattr(calls, "load", lambda: None)
    assert replies(case.network) == [tokens.tolist() for tokens in expected]


def test_it_can_be_quantised(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 bits change the logits little; and, where no kernel rounds activations, a cached step is the whole forward."""
    ids_BT = torch.tensor([prompts()[0]])
    with torch.inference_mode():
        expected = case.network.logits(case.network(ids_BT))
        quantized = quantize(copy.deepcopy(case.network), "int8").eval()
        found = quantized.logits(quantized(ids_BT))
        assert (found - expected).norm() < 0.12 * expected.norm()
        monkeypatch.setattr(calls, "available", lambda: False)
        monkeypatch.setattr(calls, "load", lambda: None)
        found = quantized.logits(quantized(ids_BT))
        cache = quantized.new_cache(10)
        table = torch.arange(1, 11, dtype=torch.int32)[None]
        quantized(ids_BT[:, :-1], cache=cache.view(table, [0], [99]))
        last = quantized.logits(quantized(ids_BT[:, -1:], cache=cache.view(table, [99], [1])))
        torch.testing.assert_close(last[0, 0], found[0, -1], rtol=0, atol=1e-4)


def test_import_is_strict(case: Case) -> None:
    """TRAP-126."""
    form, theirs, sizes = case.form, case.theirs, case.sizes
    for name, tensor in theirs.items():
        with pytest.raises(CheckpointError, match=f"{name} .*is missing"):
            form.to_ours({key: value for key, value in theirs.items() if key != name}, sizes)
        with pytest.raises(CheckpointError, match=f"{name} has shape"):
            form.to_ours(theirs | {name: tensor[:-1]}, sizes)
    with pytest.raises(CheckpointError, match=r"unexpected.*model\.layers\.9\.mlp"):
        form.to_ours(theirs | {"model.layers.9.mlp.up_proj.weight": torch.zeros(1)}, sizes)


# configs


@pytest.mark.parametrize("form", [form for form in FORMS.values() if not isinstance(form, GPT2)], ids=lambda form: form.model_type)
def test_fields_that_a_config_lacks_are_what_transformers_takes_for_them(form: Format) -> None:
    least = {"vocab_size": 97, "max_position_embeddings": 64, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 32}
    least["num_attention_heads"] = 32
    for changes in ({}, {"use_sliding_window": True, "sliding_window": 7}):
        theirs = transformers.AutoConfig.for_model(form.model_type, **least, **changes).to_dict()
        assert filled(form.from_config(least | changes)) == filled(form.from_config(theirs))


OLD_LLAMA3 = {"rope_theta": 5e5, "rope_scaling": LLAMA3}
OLD_GEMMA3 = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}


@pytest.mark.parametrize(("name", "old"), [("llama-grouped", {"rope_theta": 777.0}), ("llama-grouped", OLD_LLAMA3), ("gemma3", OLD_GEMMA3)])
def test_transformers_4_kept_rotary_positions_elsewhere(name: str, old: dict[str, Any]) -> None:
    model_type, changes = CONFIGS[name]
    read = transformers.AutoConfig.for_model(model_type, **copy.deepcopy(SMALL | changes | old)).to_dict()
    sizes = FORMS[model_type].from_config(SMALL | changes | old)
    assert filled(sizes) == filled(FORMS[model_type].from_config(read))
    shape = sizes.shape
    assert shape.rotary_theta == old["rope_theta"] and (shape.rotary_scaling is None) == ("rope_scaling" not in old)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: True"),
        ("gpt2", {"activation_function": "silu"}, "activation_function: 'silu'"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"attn_pdrop": 0.5}, "attn_pdrop"),
        ("gpt2", {"n_layer": None}, "no n_layer"),
        ("llama-grouped", {"hidden_act": "relu"}, "hidden_act: 'relu'"),
        ("llama-grouped", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling .*llama3.*low_freq_factor"),
        ("llama-grouped", {"rope_scaling": {"type": "dynamic", "factor": 8.0}}, "rope_scaling .*dynamic.*length of the sequence"),
        ("llama-grouped", {"rope_scaling": {"type": "linear"}}, "rope_scaling .*linear.*factor"),
        ("llama-grouped", {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 2]}}, "mrope_section|rope_parameters"),
        ("llama-grouped", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor: 0.5"),
        ("llama-grouped", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5"),
        ("llama-grouped", {"attention_dropout": 0.1}, "attention_dropout"),
        ("llama-grouped", {"pretraining_tp": 2}, "pretraining_tp: 2"),
        ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}}, "longrope"),
        ("phi3", {"rope_scaling": YARN}, "rope_scaling.*yarn"),
        ("phi3", {"resid_pdrop": 0.1}, "resid_pdrop"),
        ("qwen2-windows-mixed", {"layer_types": ["chunked_attention"] * 3}, "layer_types.*chunked_attention"),
        ("qwen2-windows-mixed", {"layer_types": LAYERS[:2]}, "layer_types"),
        ("smollm3-windows", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ("gemma", {"hidden_act": "relu"}, "hidden_act: 'relu'"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma3", {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}, "sliding_attention"),
    ],
)  # fmt: skip
def test_a_field_we_do_not_compute_is_refused_by_name(name: str, change: dict[str, Any], message: str) -> None:
    config = their_config(name).to_dict()
    if "rope_scaling" in change:
        config.pop("rope_parameters")
    with pytest.raises(CheckpointError, match=message):
        FORMS[CONFIGS[name][0]].from_config(config | change)
