"""Dropout is on where a recipe trains a network, wherever that came from, and off where a policy's replies are its training data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Data, adamw  # type: ignore[import-not-found]

from framework.checkpoint import load_network, save
from framework.networks.lora import LoRA
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.recipes.grpo import GRPO
from framework.recipes.ppo import PPO
from framework.recipes.sft import SFT
from framework.rewards.length import Brevity
from framework.tokenizers.byte import Byte


class Modes(Callback):
    """Whether the network was in training mode, at each step."""

    def __init__(self) -> None:
        self.seen: list[set[bool]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append({module.training for module in pl_module.network.modules()})


@pytest.fixture(params=["fresh", "stored", "adapted"])
def network(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def fresh(**sizes: Any) -> Transformer:
        return Transformer(NetworkShape(2, 32, 2, dropout=0.5), **sizes)

    def stored(**_: Any) -> Any:
        return load_network(tmp_path / "stored")

    torch.manual_seed(0)
    save(tmp_path / "stored", fresh(vocab_size=Byte().vocab_size, context_length=32), Byte(), {})
    return {"fresh": fresh, "stored": stored, "adapted": lambda **_: LoRA(stored, rank=2, dropout=0.5)}[request.param]


def test_dropout_is_on_while_demonstrations_are_learnt(network: Any, data: Data, train: Any) -> None:
    modes = Modes()
    train(SFT(network, adamw()), data.demonstrations(), max_steps=3, val_check_interval=1, limit_val_batches=1, callbacks=[modes])
    assert modes.seen == [{True}] * 3


@pytest.mark.parametrize("kind", [PPO, GRPO])
def test_a_policy_is_trained_as_it_wrote(kind: Any, network: Any, data: Data, train: Any) -> None:
    """TRAP-50: with dropout on, no probability ratio would begin at 1, and the self-test would refuse."""
    modes = Modes()
    settings = {"max_steps": 3, "val_check_interval": 1, "limit_val_batches": 1, "callbacks": [modes]}
    train(kind(network, rollout_size=8, rewards=[Brevity(free=0)], optimizer=adamw()), data.prompts(), **settings)
    assert modes.seen == [{False}] * 3
