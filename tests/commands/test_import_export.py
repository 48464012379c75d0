"""`framework import`, `export` and `verify` from the command line: a line on stdout, one line for a mistake, an exit code that tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from framework import checkpoint
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.registry import registry
from framework.tokenizers.byte import Byte

pytestmark = pytest.mark.skipif("verify" not in list(registry("framework.commands")), reason="no entry points in this installation")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.manual_seed(0)
    shape = NetworkShape(2, 32, 4, 2, feedforward="swiglu", norm="rms", positions="rotary")
    checkpoint.save(tmp_path / "model", Transformer(shape, Byte().vocab_size, 256), Byte(), {})
    monkeypatch.chdir(tmp_path)
    return tmp_path / "model"


def test_in_and_out_and_the_same(model: Path, framework: Any) -> None:
    made = framework("import", "model", "half", "--dtype", "bfloat16")
    assert made.code == 0 and "LlamaForCausalLM" in made.out and made.err == "", made
    made = framework("export", "half", "model.gguf", "--to", "gguf", "--check", "false")
    assert made.code == 0 and "BF16" in made.out, made
    made = framework("verify", "half", "--against", "model.gguf", "--transformers", "false", "--json", "true")
    report = json.loads(made.out)
    assert made.code == 0 and report["passed"] and {finding["outcome"] for finding in report["findings"]} == {"passed"}, report
    other = Transformer(NetworkShape(2, 32, 4, 2, feedforward="swiglu", norm="rms", positions="rotary"), Byte().vocab_size, 256)
    checkpoint.save(Path("other"), other, Byte(), {})
    made = framework("verify", "half", "--against", "other", "--transformers", "false")
    assert made.code == 1 and "FAILED   weights, other" in made.out, made.out


def test_mistakes(model: Path, refused: Callable[..., str]) -> None:
    refused("import", "nowhere/at/all", "out", saying=["there is no directory nowhere/at/all"])
    refused("import", "model", "out", "--dtype", "int8", saying=["dtype"])
    refused("export", "model", "out", "--adapter", "only", saying=["holds no adapter"])
    refused("export", "model", "out", "--adapter", "only", "--to", "gguf", saying=["peft's form"])
    refused("export", "model", "out", "--type", "Q8_0", saying=["Q8_0 is a type of GGUF files: --to gguf"])
    assert [path.name for path in Path().iterdir()] == ["model"]
