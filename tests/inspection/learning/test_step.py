"""A step in figures: every one of them computed again, in float64 and by hand."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from looking import Look, looked_at, plain_gradients, plain_loss  # type: ignore[import-not-found]

from framework.errors import ConfigError
from framework.inspection.learning.step import learning, standing_in


@pytest.fixture
def look(small_run: Any) -> Look:
    """The third step of a run of two micro-batches a step, whose gradient is clipped."""
    run = small_run(gradient_clip_val=0.5, accumulate_grad_batches=2, limit_val_batches=1, data_arguments={"mask_documents": True})
    return looked_at(run, Look(3))


def test_losses_before_and_after(look: Look) -> None:
    summary = look.learning.summary
    assert summary.step == 3 and summary.micro_batches == 2 and summary.num_items == sum((b.targets_BT >= 0).sum() for b in look.batches)
    assert summary.loss == summary.loss_again  # what is computed here is what was trained on, to the bit
    assert summary.loss == pytest.approx(plain_loss(look.before, look.batches).item(), rel=1e-6)
    assert summary.loss_after == pytest.approx(plain_loss(look.after, look.batches).item(), rel=1e-6)
    assert summary.loss_after < summary.loss and not summary.refused


def test_validation_before_and_after(look: Look) -> None:
    batch = next(iter(look.recipe.data.val_dataloader()))
    summary = look.learning.summary
    assert summary.validation_before["val/loss"] == pytest.approx(plain_loss(look.before, [batch]).item(), rel=1e-6)
    assert summary.validation_after["val/loss"] == pytest.approx(plain_loss(look.after, [batch]).item(), rel=1e-6)


def test_gradient_norm_clipping_and_expected_change(look: Look) -> None:
    summary = look.learning.summary
    gradients = plain_gradients(look.before, lambda network: plain_loss(network, look.batches))
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients.values()))
    assert summary.gradient_norm == pytest.approx(norm, rel=1e-5)
    assert norm > 0.5 and summary.clip_factor == pytest.approx(0.5 / norm, rel=1e-4)
    before, after = (dict(network.named_parameters()) for network in (look.before, look.after))
    change = sum((gradient * (after[name].double() - before[name].double())).sum().item() for name, gradient in gradients.items())
    assert summary.expected_change == pytest.approx(change, rel=1e-5)
    assert look.learning.summary.learning_rate == 1e-2


def test_clipping_by_value_is_told_apart_from_the_gradient(small_run: Any) -> None:
    limit = 1e-3
    look = looked_at(small_run(gradient_clip_val=limit, gradient_clip_algorithm="value"), Look(2))
    gradients = plain_gradients(look.before, lambda network: plain_loss(network, look.batches))
    assert look.learning.summary.clip_algorithm == "value" and look.learning.summary.clip_factor < 1
    for weight in look.learning.weights:
        expected = gradients[weight.parameter][tuple(weight.index)].item()
        assert weight.gradient == pytest.approx(expected, rel=1e-4)
        assert weight.given == pytest.approx(max(-limit, min(limit, expected)), rel=1e-4)


def test_dropout_is_the_same_in_every_loss(small_run: Any) -> None:
    """Else a finite difference would measure other dropout."""
    look = looked_at(small_run(dropout=0.3), Look(2))
    summary = look.learning.summary
    assert summary.dropout and summary.loss == summary.loss_again
    assert abs(summary.loss - plain_loss(look.before.eval(), look.batches).item()) > 1e-3
    assert all(weight.disagreement < 1e-5 for weight in look.learning.weights)


def test_a_refused_step_is_shown_as_such(small_run: Any) -> None:
    recipe, data, trainer = small_run(max_steps=2)
    honest = recipe.objective

    def objective(batch: Any) -> Any:
        result = honest(batch)
        return result._replace(total=result.total * math.nan) if recipe.progress.step == 1 and not recipe.at_step_boundary else result

    recipe.objective = objective
    found = looked_at((recipe, data, trainer), Look(2)).learning
    assert found.summary.refused and found.summary.clip_factor is None
    assert all(one.update_norm == 0 and "not one weight changed" in one.remarks for one in found.parameters)
    assert all(weight.given is None and weight.change == 0 for weight in found.weights)
    json.dumps(found.as_json(), allow_nan=False)


def test_what_stands_in_leaves_no_trace(small_run: Any) -> None:
    recipe, data, trainer = small_run(max_steps=1)
    trainer.fit(recipe, data)
    kept = recipe.network, recipe.measures, recipe.metric
    with standing_in(recipe, torch.nn.Identity()):
        assert isinstance(recipe.network, torch.nn.Identity)
        assert recipe.measures is not kept[1] and recipe.metric is not kept[2]
    assert (recipe.network, recipe.measures, recipe.metric) == kept


def test_other_weights_are_refused_with_their_names(small_run: Any) -> None:
    recipe, data, trainer = small_run(max_steps=1)
    with pytest.raises(ConfigError, match=r"no parameter blocks\.0\.attention\.qk\.weight; did you mean blocks\.0\.attention\.qkv\.weight"):
        looked_at((recipe, data, trainer), Look(1, weights=["blocks.0.attention.qk.weight[0,0]"]))


def test_json_has_everything_and_no_infinities(look: Look) -> None:
    plain = look.learning.as_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["summary"]["loss"] == look.learning.summary.loss
    assert plain["batch"]["rows"][0]["guesses"][0]["loss"] == look.learning.batch.rows[0].guesses[0].loss
    assert plain["graph"]["calls"][0]["calls"][0]["module"] == "embedding"
    assert [one["name"] for one in plain["parameters"]] == [name for name, _ in look.before.named_parameters()]


def test_a_device_without_float64_is_refused(look: Look) -> None:
    class Elsewhere:
        device = torch.device("mps")

    with pytest.raises(ConfigError, match=r"float64.*--trainer\.accelerator cpu"):
        learning(Elsewhere(), look.step)  # type: ignore[arg-type]
