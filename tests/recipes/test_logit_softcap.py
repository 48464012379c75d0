"""Capped logits (Gemma 2) are capped wherever a loss or a score is made of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from framework.batches.types import IGNORE, TokenBatch
from framework.networks.actor_critic import ActorCritic
from framework.networks.base import Network
from framework.networks.lora import LoRA
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.recipes.experience import Experience
from framework.recipes.policy import PolicyRecipe
from framework.recipes.sequences import sequence_log_probs
from framework.recipes.sft import SFT
from framework.tasks.likelihood import Stretch, likelihoods

IDS_BT = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
TARGETS_BT = torch.tensor([[2, 3, 4, 5, IGNORE], [7, 8, 9, 10, IGNORE]])
ENDS = slice(None, -1)


def made(kind: str) -> tuple[Network, Tensor]:
    """A network whose logits reach the cap, and log-probabilities of each next token by its own `logits`, [2, 4]."""
    torch.manual_seed(0)
    inner = Transformer(NetworkShape(1, 16, 2, logit_softcap=0.5), 11, 8).double().eval()
    with torch.no_grad():
        inner.embedding.weight.mul_(50)
    around: dict[str, Any] = {
        "alone": lambda: inner, "lora": lambda: LoRA(lambda **_: inner).double(), "policy": lambda: ActorCritic(inner, None)
    }  # fmt: skip
    network: Network = around[kind]().eval()
    logits_BTV = network.logits(network(IDS_BT))
    assert 0.45 < logits_BTV.abs().max() <= 0.5
    return network, logits_BTV.log_softmax(-1)[:, ENDS].gather(2, IDS_BT[:, 1:, None])[..., 0]


@pytest.mark.parametrize("kind", ["alone", "lora", "policy"])
def test_log_probabilities_of_policies_and_sequences(kind: str) -> None:
    network, expected = made(kind)
    targets_BT = torch.cat([torch.full((2, 1), IGNORE), IDS_BT[:, 1:]], dim=1).roll(-1, 1)
    torch.testing.assert_close(sequence_log_probs(network, IDS_BT, targets_BT).sums_R, expected.sum(1))
    zeros_SR, mask_SR = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    experience = Experience(IDS_BT, torch.tensor([2, 2]), mask_SR, *[zeros_SR] * 6)
    recipe: Any = SimpleNamespace(temperature=1.0)
    found = PolicyRecipe.token_log_probs(recipe, network, experience)
    torch.testing.assert_close(found.log_probs_N.view(2, 3), expected[:, 1:])


def test_token_prediction_trains_and_judges_by_them() -> None:
    network, expected = made("alone")
    recipe = SFT(lambda **_: None)  # type: ignore[arg-type, return-value]
    recipe.network = network
    batch = TokenBatch(IDS_BT, TARGETS_BT)
    torch.testing.assert_close(recipe.objective(batch).total, -expected.sum())
    recipe.metric, recipe._byte_lengths_V = recipe.new_metric(), torch.ones(11)
    recipe.evaluate(batch)
    assert recipe.metric.compute()["val/loss"].item() == pytest.approx(-expected.mean().item(), rel=1e-6)


def test_tasks_score_by_them() -> None:
    network, expected = made("alone")
    scores = dict(likelihoods(network, [Stretch(row.tolist(), 4) for row in IDS_BT], batch_tokens=64))
    assert [scores[row].nats for row in range(2)] == pytest.approx((-expected.sum(1)).tolist(), rel=1e-9)
