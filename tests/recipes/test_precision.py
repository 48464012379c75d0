"""Every precision that Lightning offers: each recipe trains and validates in it, and begins where it must (TRAP-50, 72)."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Data, adamw, network, scored  # type: ignore[import-not-found]

from framework.checkpoint import load_network, save
from framework.networks.base import Network
from framework.recipes.dpo import DPO
from framework.recipes.grpo import GRPO
from framework.recipes.metrics import PairMetrics, RewardMetrics, TokenMetrics
from framework.recipes.ppo import PPO
from framework.recipes.reward_model import RewardModel
from framework.recipes.sft import SFT
from framework.rewards.length import Brevity
from framework.tokenizers.byte import Byte

BOUNDS = {"64-true": 1e-10, "32-true": 1e-4, "bf16-mixed": 5e-2, "bf16-true": 5e-2}
REWARDS = {"rewards": [Brevity(free=0)], "rollout_size": 8, "optimizer": adamw()}
MAKE: dict[str, Callable[[Any], Any]] = {
    "demonstrations": lambda net: SFT(net, adamw()),
    "preferences": lambda net: DPO(net, adamw(), reference="precomputed"),
    "preferences of a reward model": lambda net: RewardModel(scored, adamw()),
    "prompts": lambda net: PPO(net, **REWARDS),
    "prompts in groups": lambda net: GRPO(net, num_generations=4, beta=0.1, **REWARDS),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Network]:
    """Gives a network that a file holds in fp32, as --init_from does."""
    directory = tmp_path_factory.mktemp("stored") / "model"
    torch.manual_seed(0)
    save(directory, network(vocab_size=Byte().vocab_size, context_length=32), Byte(), {})
    return lambda **_: load_network(directory)


class First(Callback):
    """The largest logarithm of a probability ratio, or the loss, of the first micro-batch: as the step itself computes it."""

    def __init__(self) -> None:
        self.log_ratio, self.loss = 0.0, math.nan

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0 and hasattr(batch, "log_probs_SR"):
            with pl_module.precision(), torch.no_grad():
                again_N = pl_module.token_log_probs(pl_module.policy, batch).log_probs_N
            self.log_ratio = float((again_N - batch.log_probs_SR[batch.mask_SR]).abs().max())

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        if math.isnan(self.loss):
            self.loss = pl_module.last_step.total / pl_module.last_step.num_items


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("kind", MAKE)
def test_every_recipe_in_every_precision(kind: str, precision: Any, stored: Any, data: Data, train: Any) -> None:
    first = First()
    options = {"max_steps": 2, "limit_val_batches": 1.0, "val_check_interval": 2, "precision": precision, "callbacks": [first]}
    recipe = train(MAKE[kind](stored), getattr(data, kind.partition(" ")[0])(validation_fraction=0.1), **options)
    assert recipe.progress.updates == 2 and recipe.network.head_weight_VD.dtype == {
        "64-true": torch.float64,
        "bf16-true": torch.bfloat16,
    }.get(precision, torch.float32)
    assert first.log_ratio <= BOUNDS[precision]
    if isinstance(recipe, DPO):
        assert first.loss == pytest.approx(math.log(2), abs=max(1e-6, BOUNDS[precision] / 10))
    metrics = {name: float(value) for name, value in recipe.trainer.callback_metrics.items() if name.startswith("val/")}
    assert metrics and all(math.isfinite(value) for value in metrics.values()), metrics


@pytest.mark.parametrize("kind", [TokenMetrics, PairMetrics, RewardMetrics])
def test_sums_stay_exact_in_any_precision(kind: Any) -> None:
    metric = kind().to(torch.bfloat16)
    for name, state in metric.metric_state.items():
        assert state.dtype == torch.float64, name
    metric.reset()
    assert all(state.dtype == torch.float64 for state in metric.metric_state.values())


def test_a_long_validation_is_counted_to_the_last_reply() -> None:
    metric = RewardMetrics().to(torch.bfloat16)
    metric.update(torch.ones(1000), torch.full((1000,), 3), torch.arange(1000) < 257)
    assert metric.compute()["val/finished"].item() == pytest.approx(0.257) and metric.compute()["val/length"].item() == 3
