"""Small runs for the laws on resuming and on processes, and how to carry them out (see interrupted.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from framework import checkpoint
from framework.networks.scalar_head import ScalarHead
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte

STEPS = 60
FINE_TUNING_STEPS = 48


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


def fine_tuning(recipe: str, judge: Path) -> dict[str, Any]:
    """A run of a fine-tuning recipe on generated sums, with whatever of it has a state: dropout, accumulation, several epochs, moments.

    Args:
        recipe: sft, lora-sft, reward-model, dpo-live, dpo-precomputed, ppo, lora-ppo or grpo.
        judge: a reward model's directory.
    """
    shape = {"num_layers": 2, "width": 32, "num_heads": 2, "dropout": 0.2, "norm_bias": True}
    network: dict[str, Any] = {"class_path": "Transformer", "init_args": {"shape": shape}}
    if recipe.startswith("lora-"):
        network = {"class_path": "LoRA", "init_args": {"base": network, "rank": 4, "dropout": 0.2}}
    if recipe == "reward-model":
        network = {"class_path": "ScalarHead", "init_args": {"base": network}}
    rollouts = {"rollout_size": 16, "rewards": [{"class_path": "Brevity", "init_args": {"free": 0, "cut": 1.0}}]}
    moments = {"score_scaling": "running", "kl_target": 0.5, "kl_horizon": 200, "whiten_rewards": True}
    ppo = {"reward_model": str(judge), "num_ppo_epochs": 2, "temperature": 1.0, **moments, **rollouts}
    name, form, arguments = {
        "sft": ("SFT", "demonstration", {}),
        "lora-sft": ("SFT", "demonstration", {}),
        "reward-model": ("RewardModel", "preference", {"center_rewards_coefficient": 0.01}),
        "dpo-live": ("DPO", "preference", {}),
        "dpo-precomputed": ("DPO", "preference", {"reference": "precomputed"}),
        "ppo": ("PPO", "prompt", {**ppo, "critic": "reward_model"}),
        "lora-ppo": ("PPO", "prompt", {**ppo, "critic": "shared"}),
        "grpo": ("GRPO", "prompt", {"num_generations": 4, "num_iterations": 2, "beta": 0.1, **rollouts}),
    }[recipe]
    dataset = {"class_path": "Arithmetic", "init_args": {"form": form, "digits": 1, "size": 200}}
    data: dict[str, Any] = {"dataset": dataset, "tokenizer": "Byte", "context_length": 24, "batch_size": 4, "validation_fraction": 0.05}
    prompts = {"max_new_tokens": 6} if form == "prompt" else {"num_workers": 0}
    kind = {"demonstration": "Demonstrations", "preference": "Preferences", "prompt": "Prompts"}[form]
    configuration = settings(Path())
    configuration["model"]["class_path"] = name
    configuration["model"]["init_args"].update(network=network, **arguments)
    configuration["data"] = {"class_path": kind, "init_args": {**data, **prompts}}
    configuration["trainer"]["max_steps"] = FINE_TUNING_STEPS
    configuration["checkpoints"].update(every_n_steps=3, keep_best=0)
    return configuration


def untrained_judge(directory: Path) -> Path:
    """A reward model as it begins."""
    torch.manual_seed(1)
    network = ScalarHead(lambda **sizes: Transformer(NetworkShape(1, 16, 2), **sizes), Byte().vocab_size, 24)  # type: ignore[call-arg]
    checkpoint.save(directory, network, Byte(), {})
    return directory


class Outcome(NamedTuple):
    """Exit codes of each run's ranks, the last checkpoint's state, the lines of all logs, and everything printed."""

    codes: list[list[int]]
    state: dict[str, Any]
    log: list[dict[str, Any]]
    output: str


class Job(NamedTuple):
    """Runs of one configuration in a folder, in turn: each is {arguments (further ones), ranks, action}."""

    folder: Path
    configuration: dict[str, Any]
    runs: list[dict[str, Any]]


def carry_out(folder: Path, configuration: dict[str, Any], *runs: dict[str, Any]) -> Outcome:
    """Carry out runs of one configuration in turn."""
    return carry_out_all(Job(folder, configuration, list(runs)))[0]


def carry_out_all(*jobs: Job) -> list[Outcome]:
    """Carry out several jobs, one after the other, in one process that imports once."""
    specification = []
    for folder, configuration, runs in jobs:
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(configuration))
        places = {"folder": str(folder), "output": str(folder / "output.txt"), "log": str(_run(folder) / "logs" / "metrics.jsonl")}
        specification += [{**run, **places, "arguments": ["fit", "--config", "config.yaml", *run.get("arguments", [])]} for run in runs]
    command = [sys.executable, str(Path(__file__).with_name("interrupted.py")), json.dumps(specification)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr + "".join(_output(job.folder) for job in jobs)
    codes = iter(json.loads(done.stdout))
    return [_outcome(job.folder, [next(codes) for _ in job.runs]) for job in jobs]


def _run(folder: Path) -> Path:
    return folder / "runs" / "run"


def _output(folder: Path) -> str:
    return (folder / "output.txt").read_text() if (folder / "output.txt").exists() else ""


def _outcome(folder: Path, codes: list[list[int]]) -> Outcome:
    checkpoints = sorted((_run(folder) / "checkpoints").glob("*.ckpt"))
    assert checkpoints, _output(folder)
    lines = [json.loads(line) for file in sorted((_run(folder) / "logs").glob("*.jsonl")) for line in file.read_text().splitlines()]
    return Outcome(codes, torch.load(checkpoints[-1], weights_only=True), lines, _output(folder))


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


def losses(log: list[dict[str, Any]]) -> list[tuple[int, str, Any]]:
    """(step, name, value) of everything logged but the speed."""
    return [
        (line["step"], name, value)
        for line in log
        for name, value in line.items()
        if name not in ("step", "train/mfu") and not name.endswith("_per_second")
    ]


def assert_same_run(one: Outcome, other: Outcome) -> None:
    """Weights, moments, counters and logged values are equal to the bit."""
    for key in ("state_dict", "optimizer_states", "framework"):
        assert_same(one.state[key], other.state[key], key)
    assert losses(one.log) == losses(other.log)
