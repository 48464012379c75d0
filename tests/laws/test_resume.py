"""An interrupted run is the uninterrupted one, to the bit: weights, moments, counters, logged losses (TRAP-101, 103, 112, 114, 120)."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

STEPS = 60


def config(folder: Path, corpus: Path) -> Path:
    """A 60-step run with dropout, two workers and accumulation."""
    shape = {"num_layers": 2, "width": 32, "num_heads": 2, "dropout": 0.2, "norm_bias": True}
    settings = {
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
            "init_args": {"dataset": {"class_path": "TextFiles", "init_args": {"paths": str(corpus)}}, "tokenizer": "Byte", "context_length": 16, "batch_size": 4, "num_workers": 2},
        },
        "trainer": {"max_steps": STEPS, "accumulate_grad_batches": 2, "gradient_clip_val": 1.0, "val_check_interval": 20, "limit_val_batches": 2, "log_every_n_steps": 1},
        "checkpoints": {"every_n_steps": 7},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def interrupt(folder: Path, corpus: Path, actions: list[str]) -> tuple[list[int], dict[str, Any], list[dict[str, Any]], str]:
    """Exit codes, final state, log and output of a run under the given interruptions."""
    folder.mkdir()
    output = folder / "output.txt"
    command = [sys.executable, str(Path(__file__).with_name("interrupted.py")), "runs", str(config(folder, corpus)), str(output), *actions]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=folder)
    assert done.returncode == 0, done.stderr + (output.read_text() if output.exists() else "")
    run = folder / "runs" / "run"
    checkpoints = sorted((run / "checkpoints").glob("*.ckpt"))
    state = torch.load(checkpoints[-1], weights_only=True)
    log = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    return [code for _, code in json.loads(done.stdout)], state, log, output.read_text()


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
    return [(line["step"], name, value) for line in log for name, value in line.items() if name not in ("step", "train/tokens_per_second", "train/mfu")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    codes, state, log, output = interrupt(tmp_path_factory.mktemp("whole") / "x", corpus, ["whole"])
    assert codes == [0], output
    return state, log


def compare(state: dict[str, Any], log: list[dict[str, Any]], whole: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    for key in ("state_dict", "optimizer_states", "framework"):
        assert_same(state[key], whole[0][key], key)
    assert state["global_step"] == STEPS
    assert losses(log) == losses(whole[1])


def test_killed_five_times_at_random(tmp_path: Path, corpus: Path, uninterrupted: Any) -> None:
    draw = random.Random()  # another five moments at every run of the tests; a failure prints them
    steps = sorted(draw.sample(range(1, STEPS - 1), 5))
    actions = [f"SIGKILL@{step}+{draw.uniform(0, 0.1):.3f}" for step in steps]
    codes, state, log, output = interrupt(tmp_path / "x", corpus, [*actions, "whole"])
    assert codes == [-9] * 5 + [0], (actions, output)
    compare(state, log, uninterrupted)


def test_asked_to_stop(tmp_path: Path, corpus: Path, uninterrupted: Any) -> None:
    codes, state, log, output = interrupt(tmp_path / "x", corpus, ["SIGTERM@3", "SIGINT@20", "SIGTERM@40", "whole", "whole"])
    assert codes == [143, 130, 143, 0, 0], output  # the last one finds a finished run
    assert "stopped at step" in output
    assert "--resume auto" in output
    compare(state, log, uninterrupted)
