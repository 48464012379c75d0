"""The peers' side of the model that all contenders share: opened from its directory by any transformers from 4.53 on.

A directory that finetune_models.py wrote flows in, models, a tokenizer and data flow out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LEARNING_RATE = 1e-5


def language_model(directory: str) -> Any:
    """In fp32, with SDPA attention."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory)


def scoring_model(directory: str) -> Any:
    """The same network with a new head of one output."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1)


def tokenizer(directory: str, **settings: Any) -> Any:
    """Of the file itself: what its neighbour calls the class is read differently by different releases."""
    from transformers import PreTrainedTokenizerFast

    named = json.loads((Path(directory) / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens = {"eos_token": named["eos_token"], "pad_token": named["pad_token"]}
    return PreTrainedTokenizerFast(tokenizer_file=str(Path(directory) / "tokenizer.json"), **tokens, **settings)


def rows(directory: str, name: str) -> Any:
    """NAME.jsonl as a dataset, read and kept in memory."""
    from datasets import Dataset

    lines = (Path(directory) / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return Dataset.from_list([json.loads(line) for line in lines])


def training_arguments(directory: str, batch_size: int) -> dict[str, Any]:
    """What every trainer is told: fp32 on the CPU, fused AdamW, a log line every 20 steps; nothing clipped, recomputed or saved."""
    return {
        "output_dir": str(Path(directory) / "trainer"),
        "per_device_train_batch_size": batch_size,
        "learning_rate": LEARNING_RATE,
        "optim": "adamw_torch_fused",
        "max_grad_norm": 0.0,
        "logging_steps": 20,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "dataloader_pin_memory": False,
    }
