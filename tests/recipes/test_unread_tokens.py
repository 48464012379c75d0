"""Recipes that read some of the hidden states have only those computed: counted where the last block's feed-forward begins."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Data, adamw, network, scored  # type: ignore[import-not-found]

from framework.batches.types import IGNORE
from framework.networks.scalar_head import ScalarHead
from framework.networks.transformer import Transformer
from framework.recipes.dpo import DPO
from framework.recipes.grpo import GRPO
from framework.recipes.ppo import PPO
from framework.recipes.reward_model import RewardModel
from framework.recipes.sft import SFT
from framework.rewards.length import Brevity

REWARDS: dict[str, Any] = {"rewards": [Brevity(free=0)], "rollout_size": 8, "optimizer": adamw()}


class Count(Callback):
    """Tokens that trained networks' last feed-forward gets in each training step, and what the step's batch was."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.batches: list[Any] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for part in pl_module.network.modules():
            if isinstance(part, Transformer):
                part.blocks[-1].feedforward.register_forward_pre_hook(self._look)  # type: ignore[union-attr]

    def _look(self, module: Any, given: Any) -> None:
        if torch.is_grad_enabled():
            self.seen.append(given[0].shape[:-1].numel())

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)


class Enough(Exception):
    """Ends a run."""


def averaging(**sizes: Any) -> ScalarHead:
    return ScalarHead(network, pooling="mean", **sizes)


@pytest.mark.parametrize(
    ("recipe", "kind", "passes"),
    [
        (lambda: SFT(network, adamw()), "demonstrations", 1),
        (lambda: DPO(network, adamw()), "preferences", 1),
        (lambda: RewardModel(averaging, adamw()), "preferences", 1),
        (lambda: PPO(network, critic="policy", **REWARDS), "prompts", 2),
        (lambda: PPO(network, critic="shared", **REWARDS), "prompts", 1),
        (lambda: GRPO(network, num_generations=4, **REWARDS), "prompts", 1),
    ],
)
def test_untrained_tokens_are_left_out(recipe: Any, kind: str, passes: int, data: Data, train: Any) -> None:
    count = Count()
    train(recipe(), getattr(data, kind)(), max_steps=2, callbacks=[count])
    trained = []
    for batch in count.batches[:2]:
        wanted = batch.mask_SR if kind == "prompts" else batch[1] != IGNORE
        assert wanted.sum() < batch[0].numel()
        trained += [int(wanted.sum())] * passes
    assert count.seen == trained


def test_a_reward_model_reads_the_last_tokens(data: Data, train: Any) -> None:
    count = Count()
    train(RewardModel(scored, adamw()), data.preferences(), max_steps=2, callbacks=[count])
    assert count.seen == [len(batch.lengths_R) for batch in count.batches[:2]]


@pytest.mark.parametrize(("critic", "passes"), [("policy", 1), ("shared", 2)])
def test_a_critic_of_its_own_does_not_ask_the_policy(critic: Any, passes: int, data: Data, train: Any) -> None:
    """A rollout is looked at once by the policy, for its probabilities; for values only where they are read from its hidden states."""
    recipe = PPO(network, critic=critic, **REWARDS)
    looked: list[int] = []
    advantages = recipe.advantages
    look = recipe._look

    def watched(written: Any) -> Any:
        recipe.policy.register_forward_pre_hook(lambda module, given: looked.append(len(given[0])))
        return look(written)

    def then_stop(experience: Any, written: Any) -> Any:
        advantages(experience, written)
        raise Enough(sum(looked))

    recipe._look, recipe.advantages = watched, then_stop  # type: ignore[method-assign]
    with pytest.raises(Enough) as stopped:
        train(recipe, data.prompts(), max_steps=1)
    assert stopped.value.args == (8 * passes,)


@pytest.mark.parametrize("packing", [True, False])
def test_demonstrations_say_which_tokens_are_trained(packing: bool, data: Data) -> None:
    """And a network that is told so has the loss, the gradients and the figures that it has without (float64)."""
    module = data.demonstrations(packing=packing, validation_fraction=0.2)
    module.setup("fit")
    recipe = SFT(lambda **_: None)  # type: ignore[arg-type, return-value]
    torch.manual_seed(0)
    recipe.network = network(vocab_size=module.tokenizer.vocab_size, context_length=32).double()
    recipe._byte_lengths_V = torch.ones(module.tokenizer.vocab_size)
    fillers = module.validation_batch(100)
    for batch in (module.training_batch(0), module.validation_batch(4), fillers):
        assert batch.places_2N.T.tolist() == (batch.targets_BT != IGNORE).nonzero().tolist()
        losses, gradients, figures = [], [], []
        for told in (batch, batch._replace(places_2N=None)):
            recipe.zero_grad()
            objective = recipe.objective(told)
            objective.total.backward()
            losses.append(objective)
            gradients.append([parameter.grad.clone() for parameter in recipe.network.parameters()])
            recipe.metric = recipe.new_metric()
            recipe.evaluate(told)
            figures.append(recipe.metric.compute())
        for found, expected in (losses, gradients, [[*each.values()] for each in figures]):
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-12, equal_nan=True)
    assert not fillers.places_2N.numel()
