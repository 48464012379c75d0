"""How a model is loaded: every option arrives, and a device that is not there gets one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from framework.checkpoint import save
from framework.commands.model_options import ModelOptions
from framework.errors import CheckpointError, ConfigError, RequestError
from framework.generation import Generator
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = Byte()
    directory = tmp_path_factory.mktemp("model") / "tiny"
    save(directory, Transformer(NetworkShape(num_layers=1, width=32, num_heads=2), tokenizer.vocab_size, 64), tokenizer, {})
    return directory


def test_as_stored_unless_told_otherwise(model: Path) -> None:
    assert ModelOptions().load(model).engine.network.head_weight_VD.dtype == torch.float32
    assert ModelOptions(dtype="bfloat16").load(model).engine.network.head_weight_VD.dtype == torch.bfloat16


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantized(model: Path, quantize: str) -> None:
    exact, rough = ModelOptions().load(model), ModelOptions(quantize=quantize).load(model)  # type: ignore[arg-type]
    texts = [generator.generate("a", temperature=0, max_new_tokens=4) for generator in (exact, rough)]
    assert all(texts)
    weights = [
        sum(weight.nbytes for weight in (*generator.engine.network.parameters(), *generator.engine.network.buffers()))
        for generator in (exact, rough)
    ]
    assert weights[1] < weights[0]


def test_guesses_change_nothing(model: Path, tmp_path: Path) -> None:
    texts = [
        ModelOptions(**options).load(model).generate("abcabcabc", temperature=0.9, seed=1, max_new_tokens=30)  # type: ignore[arg-type]
        for options in ({}, {"lookup": True}, {"draft": model})
    ]
    assert texts[0] == texts[1] == texts[2]
    with pytest.raises(RequestError, match="one of them"):
        ModelOptions(lookup=True, draft=model).load(model)
    tokenizer = Byte(special_tokens=("<|endoftext|>", "<|another|>"))
    save(tmp_path / "other", Transformer(NetworkShape(1, 32, 2), tokenizer.vocab_size, 64), tokenizer, {})
    with pytest.raises(RequestError, match="another tokenizer"):
        ModelOptions(draft=tmp_path / "other").load(model)


def test_options_of_the_engine_are_handed_on(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(Generator, "load", lambda directory, **options: seen.update(options))
    ModelOptions(device="cpu", compile=True).load(model, max_running=3)
    assert seen == {
        "quantize": None,
        "dtype": None,
        "device": "cpu",
        "lookup": False,
        "draft": None,
        "adapter": None,
        "compile": True,
        "max_running": 3,
    }


@pytest.mark.parametrize(
    "device", ["nowhere", pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"))]
)
def test_a_device_that_is_not_there(model: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"the device {device} cannot be used") as caught:
        ModelOptions(device=device).load(model)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no directory"):
        ModelOptions().load(tmp_path / "none")
