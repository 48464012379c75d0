"""Numbers that must not change by accident: the loss curves of small runs. `make golden` writes them anew; look at the difference."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from framework import checkpoint
from framework.batches.demonstrations import Demonstrations
from framework.batches.preferences import Preferences
from framework.batches.prompts import Prompts
from framework.commands.lightning_cli import TRAINER_DEFAULTS
from framework.datasets.json_lines import JsonLines
from framework.networks.lora import LoRA
from framework.networks.scalar_head import ScalarHead
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.optimizers.adamw import AdamW
from framework.recipes.dpo import DPO
from framework.recipes.grpo import GRPO
from framework.recipes.ppo import PPO
from framework.recipes.reward_model import RewardModel
from framework.recipes.sft import SFT
from framework.rewards.length import Brevity
from framework.schedulers.schedules import Cosine
from framework.tokenizers.byte import Byte

GOLDEN = Path(__file__).parent / "golden"
STEPS = 50


class Curve(Callback):
    """Keeps the mean loss of each step, nats."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        self.losses.append(round(pl_module.last_step.total / pl_module.last_step.num_items, 6))


def compare(name: str, found: dict[str, Any], relative: float) -> None:
    path = GOLDEN / f"{name}.json"
    if os.environ.get("FRAMEWORK_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    stored = json.loads(path.read_text())
    assert found.keys() == stored.keys()
    for key, values in stored.items():
        assert found[key] == pytest.approx(values, rel=relative), f"{key} of {path.name} has changed"


def test_pretrain(small_run: Any) -> None:
    curve = Curve()
    arguments = {"optimizer": lambda groups: AdamW(groups, lr=3e-3), "scheduler": Cosine(warmup_steps=5)}
    recipe, data, trainer = small_run(max_steps=STEPS, recipe_arguments=arguments, callbacks=[curve], gradient_clip_val=1.0)
    trainer.fit(recipe, data)
    assert len(curve.losses) == STEPS
    assert curve.losses[-1] < 0.75 * curve.losses[0]
    compare("pretrain", {"parameters": recipe.network.num_parameters(), "tokens": data.train_tokens, "losses": curve.losses}, relative=1e-3)


# fine-tuning, in float64: of reinforcement learning no rounding may decide which token is drawn


def network(**sizes: Any) -> Transformer:
    return Transformer(NetworkShape(num_layers=2, width=32, num_heads=2, positions="rotary", norm="rms", feedforward="swiglu"), **sizes)


def adapted(**sizes: Any) -> LoRA:
    return LoRA(network, rank=4, alpha=8.0, dropout=0.05, **sizes)  # type: ignore[arg-type]


def scored(**sizes: Any) -> ScalarHead:
    return ScalarHead(network, **sizes)  # type: ignore[arg-type]


def adamw(groups: Any) -> AdamW:
    return AdamW(groups, lr=3e-3)


def sums(form: str, folder: Path, **settings: Any) -> Any:
    """A hundred sums of one digit as a DataModule of what they are."""
    kind: Any = {"demonstration": Demonstrations, "preference": Preferences, "prompt": Prompts}[form]
    rows = [(f"{one}+{other}=", str(one + other), str(3 * (one + other) + 1)) for one in range(10) for other in range(10)]
    names = {"demonstration": ("prompt", "completion"), "preference": ("prompt", "chosen", "rejected"), "prompt": ("prompt",)}[form]
    (folder / "sums.jsonl").write_text("".join(json.dumps(dict(zip(names, row))) + "\n" for row in rows))
    dataset = JsonLines(str(folder / "sums.jsonl"))
    return kind(dataset, Byte(), context_length=24, validation_fraction=0.0, **{"batch_size": 8, **settings})


def judge(folder: Path) -> Path:
    """An untrained reward model in float64."""
    torch.manual_seed(1)
    checkpoint.save(folder / "judge", scored(vocab_size=Byte().vocab_size, context_length=24).double(), Byte(), {})
    return folder / "judge"


POLICY: dict[str, Any] = {"optimizer": adamw, "scheduler": Cosine(warmup_steps=5), "rollout_size": 32, "temperature": 1.0}
RUNS: dict[str, Callable[[Path], tuple[Any, Any]]] = {
    "sft": lambda folder: (SFT(network, adamw, Cosine(warmup_steps=5)), sums("demonstration", folder, batch_size=2)),
    "lora-sft": lambda folder: (SFT(adapted, adamw, Cosine(warmup_steps=5)), sums("demonstration", folder, batch_size=2)),
    "reward-model": lambda folder: (RewardModel(scored, adamw, center_rewards_coefficient=0.01), sums("preference", folder)),
    "dpo": lambda folder: (DPO(network, adamw, Cosine(warmup_steps=5)), sums("preference", folder)),
    "ppo": lambda folder: (
        PPO(
            network,
            reward_model=judge(folder),
            critic="reward_model",
            num_ppo_epochs=2,
            missing_eos_penalty=1.0,
            kl_target=0.5,
            kl_horizon=200,
            score_scaling="running",
            **POLICY,
        ),
        sums("prompt", folder, max_new_tokens=6),
    ),
    "grpo": lambda folder: (
        GRPO(network, rewards=[Brevity(free=0, cut=1.0)], num_generations=4, num_iterations=2, beta=0.1, **POLICY),
        sums("prompt", folder, max_new_tokens=6),
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_fine_tuning(name: str, tmp_path: Path) -> None:
    curve = Curve()
    recipe, data = RUNS[name](tmp_path)
    settings: dict[str, Any] = {
        **TRAINER_DEFAULTS,
        "max_steps": STEPS,
        "accelerator": "cpu",
        "precision": "64-true",
        "gradient_clip_val": 1.0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "limit_val_batches": 0,
        "default_root_dir": tmp_path,
        "callbacks": [curve],
    }
    Trainer(**settings).fit(recipe, data)
    assert len(curve.losses) == STEPS
    compare(name, {"parameters": recipe.network.num_parameters(), "items": recipe.progress.items, "losses": curve.losses}, relative=1e-3)
