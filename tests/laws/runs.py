"""A 60-step run for the laws on resuming and on processes, and how to carry it out (see interrupted.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

STEPS = 60


def settings(corpus: Path) -> dict[str, Any]:
    """A run with dropout, two workers and accumulation."""
    shape = {"num_layers": 2, "width": 32, "num_heads": 2, "dropout": 0.2, "norm_bias": True}
    dataset = {"class_path": "TextFiles", "init_args": {"paths": str(corpus)}}
    trainer = {"max_steps": STEPS, "accumulate_grad_batches": 2, "gradient_clip_val": 1.0, "val_check_interval": 20, "limit_val_batches": 2}
    return {
        "model": {
            "class_path": "Pretrain",
            "init_args": {
                "network": {"class_path": "Transformer", "init_args": {"shape": shape}},
                "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.003}},
                "scheduler": {"class_path": "Cosine", "init_args": {"warmup_steps": 10}},
            },
        },
        "data": {
            "class_path": "PackedText",
            "init_args": {"dataset": dataset, "tokenizer": "Byte", "context_length": 16, "batch_size": 4, "num_workers": 2},
        },
        "trainer": {**trainer, "log_every_n_steps": 1, "accelerator": "cpu"},
        "checkpoints": {"every_n_steps": 7},
    }


class Outcome(NamedTuple):
    """Exit codes of each run's ranks, the last checkpoint's state, the log's lines, and everything printed."""

    codes: list[list[int]]
    state: dict[str, Any]
    log: list[dict[str, Any]]
    output: str


def carry_out(folder: Path, configuration: dict[str, Any], *runs: dict[str, Any]) -> Outcome:
    """Carry out runs of one configuration in turn: each is {arguments (further ones), ranks, action}."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration))
    here = folder / "runs" / "run"
    specification = {
        "runs": [{**run, "arguments": ["fit", "--config", "config.yaml", *run.get("arguments", [])]} for run in runs],
        "log": str(here / "logs" / "metrics.jsonl"),
        "output": str(folder / "output.txt"),
    }
    command = [sys.executable, str(Path(__file__).with_name("interrupted.py")), json.dumps(specification)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=folder)
    output = (folder / "output.txt").read_text() if (folder / "output.txt").exists() else ""
    assert done.returncode == 0, done.stderr + output
    checkpoints = sorted((here / "checkpoints").glob("*.ckpt"))
    assert checkpoints, output
    log = [json.loads(line) for line in Path(specification["log"]).read_text().splitlines()]  # type: ignore[arg-type]
    return Outcome(json.loads(done.stdout), torch.load(checkpoints[-1], weights_only=True), log, output)


def assert_same(one: Any, other: Any, at: str = "state") -> None:
    """Equal to the bit, through any nesting."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), at
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), at
        for key in one:
            assert_same(one[key], other[key], f"{at}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), at
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{at}[{index}]")
    else:
        assert one == other, at


def losses(log: list[dict[str, Any]]) -> list[tuple[int, str, float]]:
    """(step, name, value) of everything logged but the speed."""
    return [
        (line["step"], name, value)
        for line in log
        for name, value in line.items()
        if name not in ("step", "train/tokens_per_second", "train/mfu")
    ]


def assert_same_run(one: Outcome, other: Outcome) -> None:
    """Weights, moments, counters and logged values are equal to the bit."""
    for key in ("state_dict", "optimizer_states", "framework"):
        assert_same(one.state[key], other.state[key], key)
    assert losses(one.log) == losses(other.log)
