"""Published config.json files give networks of the published number of parameters, without a tensor of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from framework.formats.base import Format
from framework.formats.gemma import Gemma
from framework.formats.gemma2 import Gemma2
from framework.formats.gemma3 import Gemma3
from framework.formats.llama import Llama
from framework.formats.mistral import Mistral
from framework.formats.phi3 import Phi3
from framework.formats.qwen2 import Qwen2
from framework.formats.qwen3 import Qwen3
from framework.formats.smollm3 import SmolLM3
from framework.networks.transformer import Transformer

LLAMA3 = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}


def config(vocab: int, width: int, inner: int, layers: int, heads: int, kv_heads: int, context: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocab, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "max_position_embeddings": context, **more,
    }  # fmt: skip


CASES: dict[str, tuple[Format, dict[str, Any], int]] = {
    "Llama-2-7b": (Llama(), config(32000, 4096, 11008, 32, 32, 32, 4096), 6_738_415_616),
    "Llama-2-13b": (Llama(), config(32000, 5120, 13824, 40, 40, 40, 4096), 13_015_864_320),
    "Llama-2-70b": (Llama(), config(32000, 8192, 28672, 80, 64, 8, 4096), 68_976_648_192),
    "Meta-Llama-3-8B": (Llama(), config(128256, 4096, 14336, 32, 32, 8, 8192, rope_theta=5e5), 8_030_261_248),
    "Llama-3.2-1B": (
        Llama(),
        config(128256, 2048, 8192, 16, 32, 8, 131072, head_dim=64, rope_theta=5e5, rope_scaling=LLAMA3, tie_word_embeddings=True),
        1_235_814_400,
    ),
    "TinyLlama-1.1B": (Llama(), config(32000, 2048, 5632, 22, 32, 4, 2048), 1_100_048_384),
    "SmolLM2-135M": (Llama(), config(49152, 576, 1536, 30, 9, 3, 8192, rope_theta=1e5, tie_word_embeddings=True), 134_515_008),
    "Mistral-7B-v0.1": (Mistral(), config(32000, 4096, 14336, 32, 32, 8, 32768, sliding_window=4096), 7_241_732_096),
    "Qwen2.5-0.5B": (
        Qwen2(),
        config(151936, 896, 4864, 24, 14, 2, 32768, rope_theta=1e6, use_sliding_window=False, tie_word_embeddings=True),
        494_032_768,
    ),
    "Qwen2.5-7B": (Qwen2(), config(152064, 3584, 18944, 28, 28, 4, 131072, rope_theta=1e6, use_sliding_window=False), 7_615_616_512),
    "Qwen3-0.6B": (
        Qwen3(), config(151936, 1024, 3072, 28, 16, 8, 40960, head_dim=128, rope_theta=1e6, tie_word_embeddings=True), 596_049_920
    ),
    "SmolLM3-3B": (SmolLM3(), config(128256, 2048, 11008, 36, 16, 4, 65536, rope_theta=5e6), 3_075_098_624),
    "Phi-3-mini-4k": (Phi3(), config(32064, 3072, 8192, 32, 32, 32, 4096, sliding_window=2047), 3_821_079_552),
    "gemma-2b": (Gemma(), config(256000, 2048, 16384, 18, 8, 1, 8192, head_dim=256, hidden_act="gelu"), 2_506_172_416),
    "gemma-2-2b": (Gemma2(), config(256000, 2304, 9216, 26, 8, 4, 8192), 2_614_341_888),
    "gemma-3-1b": (Gemma3(), config(262144, 1152, 6912, 26, 4, 1, 32768, sliding_window=512), 999_885_952),
}  # fmt: skip


@pytest.mark.parametrize(("form", "fields", "count"), CASES.values(), ids=CASES)
def test_parameters(form: Format, fields: dict[str, Any], count: int) -> None:
    sizes = form.from_config(fields)
    with torch.device("meta"):
        network = Transformer(*sizes)
    assert network.num_parameters() == count
    assert sum(math.prod(entry.shape) for entry in form.table(sizes)) == count, "the table holds each of them once"


def test_layers_of_gemma_3() -> None:
    shape = CASES["gemma-3-1b"][0].from_config(CASES["gemma-3-1b"][1]).shape
    whole = [layer for layer in range(26) if shape.layer_kind(layer).window is None]
    assert whole == [5, 11, 17, 23]
    assert {shape.layer_kind(layer).rotary for layer in whole} == {(1e6, None)} and shape.layer_kind(0) == (512, (1e4, None))
