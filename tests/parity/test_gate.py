"""The gate passes a model that is the same everywhere, and names what is not: the check, the tensor, the layer, the position."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from framework import checkpoint
from framework.formats.importing import import_model
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.parity.findings import Finding, Report
from framework.parity.gate import verify
from framework.tokenizers.byte import Byte

Q1, K1 = (f"model.layers.1.self_attn.{part}_proj.weight" for part in "qk")
NORM = "model.layers.2.post_attention_layernorm.weight"


def outcomes(report: Report) -> dict[str, str]:
    return {finding.check: finding.outcome for finding in report.findings}


def failures(report: Report) -> dict[str, Finding]:
    return {finding.check.partition(",")[0]: finding for finding in report.findings if finding.outcome == "FAILED"}


def test_a_model_that_is_the_same_everywhere(glass: Any, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    import_model(glass.directory, tmp_path / "model")
    told: list[str] = []
    report = verify(tmp_path / "model", glass.directory, told=told.append)
    assert report.passed, report.table()
    assert set(outcomes(report).values()) == {"passed"} and len(report.findings) == 13
    assert told == ["files", "engine", "transformers", str(glass.directory)]
    assert "60 greedy tokens equal" in report.table() and "38 tensors equal" in report.table()
    assert json.loads(json.dumps(report.as_json()))["passed"]


def swapped_pairs(rows: Tensor) -> Tensor:
    """As GGUF stores queries and keys, where nobody turned them back."""
    return rows.reshape(-1, 2, 16, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


@pytest.mark.parametrize(
    ("tensor", "change", "where"),
    [
        (Q1, swapped_pairs, "layer 1's attention, position 1"),
        (K1, swapped_pairs, "layer 1's attention, position 1"),
        (NORM, lambda weight: weight.index_fill_(0, torch.tensor([3]), 0.0), "layer 2's feed-forward, position 0"),
        ("model.norm.weight", lambda weight: weight * 1.01, "all layers agree: what follows them differs"),
    ],
)
def test_a_changed_tensor_is_named_and_followed(
    glass: Any, altered: Callable[..., Path], tensor: str, change: Callable[[Tensor], Tensor], where: str
) -> None:
    found = failures(verify(glass.directory, altered(tensor, change), transformers=False))
    assert set(found) == {"weights", "answers"}
    assert found["weights"].detail.startswith(f"{tensor} differs by up to ")
    assert where in found["answers"].detail


def test_another_end_another_template_another_tokenizer(glass: Any, altered: Callable[..., Path]) -> None:
    other = altered(file="generation_config.json", eos_token_id=[3, 7])
    changed = json.loads((other / "tokenizer_config.json").read_text())
    changed["chat_template"] = changed["chat_template"].replace("assistant\\n", "assistant ")
    (other / "tokenizer_config.json").write_text(json.dumps(changed))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["q"], vocabulary["z"] = vocabulary["z"], vocabulary["q"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = failures(verify(glass.directory, other, transformers=False))
    assert set(found) == {"special tokens", "chat template", "tokenizer"}
    assert found["tokenizer"].detail.startswith("'The quick brown fox")
    assert "eos is [3] and [3, 7]" in found["special tokens"].detail
    assert found["chat template"].detail.startswith("chat 0: ")


def test_another_configuration(glass: Any, altered: Callable[..., Path]) -> None:
    found = failures(verify(glass.directory, altered(file="config.json", rope_theta=20000.0, rms_norm_eps=1e-3), transformers=False))
    assert "rotary_theta is 10000.0 and 20000.0" in found["configuration"].detail
    assert "norm_eps is 1e-06 and 0.001" in found["configuration"].detail
    assert "layer 0's attention, position 0" in found["answers"].detail


def test_a_flipped_bit(glass: Any, tmp_path: Path) -> None:
    import_model(glass.directory, tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    file.write_bytes(file.read_bytes().replace(b"3", b"5", 1))
    report = verify(tmp_path / "model")
    assert outcomes(report) == {"files": "FAILED"} and "generation_config.json is damaged" in report.table()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounded_weights_are_no_difference_and_wrong_ones_are(glass: Any, altered: Callable[..., Path], tmp_path: Path, dtype: str) -> None:
    import_model(glass.directory, tmp_path / "half", getattr(torch, dtype))
    report = verify(tmp_path / "half", glass.directory, transformers=False)
    assert report.passed, report.table()
    assert {"float16": "tensors equal", "bfloat16": "as near as BF16 can be"}[dtype] in report.table()  # it was published in fp16
    found = failures(verify(tmp_path / "half", altered(NORM, lambda weight: weight * 1.05), transformers=False))
    assert found["weights"].detail.startswith(f"{NORM} differs")


def test_networks_that_nobody_else_knows(tmp_path: Path) -> None:
    """Our own kind: the engine is compared, everything else says why it is not."""
    torch.manual_seed(0)
    shape = NetworkShape(2, 32, 4, positions="rotary", norm="layer")
    checkpoint.save(tmp_path / "model", Transformer(shape, Byte().vocab_size, 128), Byte(), {})
    report = verify(tmp_path / "model")
    assert outcomes(report) == {
        "files": "passed",
        "engine, one at a time": "passed",
        "engine, all together": "passed",
        "transformers": "skipped",
    }
    assert "no Hugging Face directory" in report.table()


def test_the_command(glass: Any, altered: Callable[..., Path], framework: Any) -> None:
    from framework.registry import registry

    if "verify" not in registry("framework.commands"):
        pytest.skip("no entry point yet")
    wrong = altered(NORM, lambda weight: weight * 2)
    made = framework("verify", glass.directory, "--against", wrong)
    assert made.code == 1 and "FAILED" in made.out and NORM in made.out
    made = framework("verify", glass.directory, "--json", "true")
    assert made.code == 0 and json.loads(made.out)["passed"]
