"""ORPO's loss by hand, and its recipe by name."""

from __future__ import annotations

import math

import pytest
import torch
from framework_orpo import ORPO, log_odds

from framework.batches.types import IGNORE, PairBatch
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer


def test_log_odds() -> None:
    for probability in (1e-6, 0.3, 0.999):
        found = log_odds(torch.tensor(math.log(probability), dtype=torch.float64)).item()
        assert found == pytest.approx(math.log(probability / (1 - probability)), rel=1e-9)
    assert log_odds(torch.tensor(0.0)).isfinite()


def test_the_loss_by_hand() -> None:
    torch.manual_seed(0)
    recipe = ORPO(lambda **_: None, beta=0.3)  # type: ignore[arg-type, return-value]
    recipe.network = Transformer(NetworkShape(1, 16, 2), 11, 8).double().eval()
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 0]])
    targets = torch.tensor([[IGNORE, 3, 4, 9], [IGNORE, 5, 9, IGNORE]])
    batch = PairBatch(ids, targets, torch.tensor([4, 3]), torch.zeros(1), torch.zeros(1, dtype=torch.long), torch.ones(1))
    objective = recipe.objective(batch)
    table = recipe.network.logits(recipe.network(ids)).log_softmax(-1)
    chosen = (table[0, 1, 3] + table[0, 2, 4] + table[0, 3, 9]).item() / 3
    rejected = (table[1, 1, 5] + table[1, 2, 9]).item() / 2
    odds = [math.exp(each) / (1 - math.exp(each)) for each in (chosen, rejected)]
    expected = -chosen + 0.3 * math.log(1 + odds[1] / odds[0])
    assert objective.total.item() == pytest.approx(expected, abs=1e-9) and objective.num_items.item() == 1
