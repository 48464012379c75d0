"""A whole life on small data: text, tokenizer, pretraining, model directory, generated text that reads like what was learnt."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest


def test_text_to_text(framework: Any, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(
        f"""
name: story
model:
  class_path: Pretrain
  init_args:
    network: {{class_path: Transformer, init_args: {{shape: {{num_layers: 2, width: 64, num_heads: 4, positions: rotary, norm: rms}}}}}}
    optimizer: {{class_path: AdamW, init_args: {{lr: 0.01}}}}
    scheduler: {{class_path: Cosine, init_args: {{warmup_steps: 10, final_factor: 0.05}}}}
data:
  class_path: PackedText
  init_args:
    dataset: {{class_path: TextFiles, init_args: {{paths: {corpus}}}}}
    tokenizer: {{class_path: BPE, init_args: {{vocab_size: 290}}}}
    context_length: 48
    batch_size: 8
    validation_fraction: 0.1
trainer: {{max_steps: 120, val_check_interval: 60, gradient_clip_val: 1.0, accelerator: cpu, enable_progress_bar: false, log_every_n_steps: 10}}
"""
    )
    trained = framework("fit", "--config", "run.yaml")
    assert trained.code == 0, trained.err
    log = [json.loads(line) for line in Path("runs/story/logs/metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in log if "train/loss" in line]
    validation = [line["val/loss"] for line in log if "val/loss" in line]
    assert losses[-1] < 0.4 * losses[0]
    assert (
        validation[-1] < validation[0] and validation[-1] < 1.3 * losses[-1]
    )  # the text is random sentences: there is nothing to learn by heart

    told = framework(
        "generate", "runs/story", "The cat", "The bird ran to", "--max_new_tokens", 40, "--temperature", 0.8, "--seed", 1, "--samples", 2
    )
    assert told.code == 0 and told.err == "", told.err
    texts = told.out.split(f"{'-' * 40}\n")
    assert [text[:7] for text in texts] == ["The cat", "The cat", "The bir", "The bir"]
    assert len(set(texts)) == 4
    known = set(re.findall(r"\w+", " ".join(file.read_text() for file in corpus.iterdir())))
    words = [word for text in texts for word in re.findall(r"\w+", text)[:-1]]  # the last may be cut off
    assert len(words) > 60
    assert sum(word in known for word in words) > 0.9 * len(words), told.out
    assert len(re.findall(r"(cat|dog|bird|fish) (sat on|ran to|looked at) (the mat|a tree|the house)\.", told.out)) > 10, told.out
