"""The contender `framework fit`: the real command line, with its loader, hooks, log and bar; only what is not a step is left out.

No validation and no checkpoints, because they are not part of the steady state; logging as it is by default, every 20 steps.
"""

from __future__ import annotations

import os
import random
import string
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import Callback

CHARACTERS = (string.ascii_letters + string.digits + " \n")[:64]  # and the end of a document: 65 ids, as in nanoGPT's character model
_rounds: Any  # where the worker put it before the command line made the callback


class Tell(Callback):
    """Says where a step begins: everything up to the next beginning is that step's time, loading, logging and the bar among it."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Say how large the network is, and what to wait for."""
        if pl_module.device.type == "cuda":
            _rounds.on_gpu()
        _rounds.note(parameters=pl_module.network.num_parameters(), flops=pl_module.flops_per_item())

    def on_train_batch_start(self, *arguments: Any, **keywords: Any) -> None:
        """A step begins (no accumulation here)."""
        _rounds()


def fit(
    rounds: Any, setting: dict[str, Any], directory: str, compiled: bool = False, keeps: bool = False, trainer: dict[str, Any] | None = None
) -> None:
    """Run `framework fit` on a made-up corpus of characters until the process is ended.

    `keeps` lets it keep freed memory, as it does by itself outside of benchmarks; `trainer` changes trainer settings.
    """
    from framework.__main__ import main

    if keeps:
        del os.environ["FRAMEWORK_KEEP_MEMORY"]

    global _rounds
    _rounds = rounds
    folder, name = Path(directory), f"fit-{compiled}-{keeps}"
    os.environ["FRAMEWORK_CACHE"] = str(folder / "cache")
    corpus = folder / "corpus.txt"
    draw = random.Random(0)
    corpus.write_text("".join(draw.choices(CHARACTERS, k=2_000_000)), encoding="utf-8")
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(configuration(setting, corpus, compiled, trainer or {})), encoding="utf-8")
    raise SystemExit(main(["fit", "--config", str(config), "--runs_dir", str(folder / "runs"), "--name", name]))


def configuration(setting: dict[str, Any], corpus: Path, compiled: bool, trainer: dict[str, Any]) -> dict[str, Any]:
    """The run's YAML. A vocabulary other than that of characters is the network's alone: the arithmetic is the same."""
    from contenders import LEARNING_RATE

    network: dict[str, Any] = {"shape": setting["shape"], "compile": compiled}
    if setting["vocab_size"] != len(CHARACTERS) + 1:
        network["vocab_size"] = setting["vocab_size"]
    return {
        "model": {
            "class_path": "Pretrain",
            "init_args": {
                "network": {"class_path": "Transformer", "init_args": network},
                "optimizer": {"class_path": "AdamW", "init_args": {"lr": LEARNING_RATE}},
            },
        },
        "data": {
            "class_path": "PackedText",
            "init_args": {
                "dataset": {"class_path": "TextFiles", "init_args": {"paths": str(corpus)}},
                "tokenizer": {"class_path": "Character"},
                "context_length": setting["context_length"],
                "batch_size": setting["batch_size"],
                "validation_fraction": 0,
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 10**7,
            "limit_val_batches": 0,
            "callbacks": [{"class_path": "fit_loop.Tell"}],
            **trainer,
        },
        "checkpoints": {"every_n_steps": 0},
    }
