"""Updates: AdamW's from its paper, step by step from the first; other optimizers' own numbers; what is unusual."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from looking import Look, looked_at, plain_gradients, plain_loss  # type: ignore[import-not-found]

from framework.inspection.learning.weights import parse_places
from framework.optimizers.adamw import AdamW
from framework.optimizers.muon import Muon, orthogonalise
from framework.schedulers.base import Scheduler
from framework.training.observation import ObservedStep, StepObserver

WEIGHTS = ["blocks.0.attention.qkv.weight[3,5]", "norm.weight[2]", "embedding.weight[101,7]"]


class Falling(Scheduler):
    def factor(self, step: int, total_steps: int) -> float:
        return 1 / (step + 1)


class Batches(StepObserver):
    """The batches of several steps."""

    def __init__(self, steps: list[int]) -> None:
        super().__init__(steps)
        self.seen: list[Any] = []

    def observe(self, trainer: Any, recipe: Any, step: ObservedStep) -> None:
        self.seen.append([batch for _, batch in step.micro_batches])


def test_adamw_from_its_paper(small_run: Any) -> None:
    """arXiv 1711.05101, algorithm 2, in float64 from the first step on: moments, parts and weights of the third."""
    rate, beta1, beta2, eps, decay, limit = 1e-2, 0.8, 0.9, 1e-6, 0.3, 0.2
    settings = {
        "optimizer": lambda groups: AdamW(groups, lr=rate, betas=(beta1, beta2), eps=eps, weight_decay=decay),
        "scheduler": Falling(),
    }
    run = small_run(precision="64-true", recipe_arguments=settings, gradient_clip_val=limit, accumulate_grad_batches=2)
    batches, first, look = Batches([1, 2, 3]), Look(1, weights=WEIGHTS), Look(3, weights=WEIGHTS)
    run[2].callbacks += [batches, first]
    looked_at(run, look)
    network = first.before
    weights = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    m, v = ({name: torch.zeros_like(weight) for name, weight in weights.items()} for _ in range(2))
    for step in (1, 2, 3):
        before = copy.deepcopy(weights)
        for name, parameter in network.named_parameters():
            parameter.data.copy_(weights[name])
        gradients = plain_gradients(network, lambda wide, step=step: plain_loss(wide, batches.seen[step - 1]))  # type: ignore[misc]
        norm = sum(gradient.square().sum() for gradient in gradients.values()) ** 0.5
        lr = rate / step
        parts = {}
        for name, gradient in gradients.items():
            given = gradient * min(1.0, limit / (norm + 1e-6))
            m[name] = beta1 * m[name] + (1 - beta1) * given
            v[name] = beta2 * v[name] + (1 - beta2) * given**2
            adaptive = -lr * (m[name] / (1 - beta1**step)) / ((v[name] / (1 - beta2**step)).sqrt() + eps)
            shrunk = -lr * (0.0 if weights[name].ndim == 1 else decay) * weights[name]
            parts[name] = given, adaptive, shrunk
            weights[name] = weights[name] + adaptive + shrunk
    for place, weight in zip(parse_places(WEIGHTS), look.learning.weights, strict=True):
        name, index = place.parameter, place.index
        given, adaptive, shrunk = (part[index].item() for part in parts[name])
        assert (weight.parameter, tuple(weight.index)) == (name, index)
        assert weight.adamw is not None and weight.adamw.step == 3
        assert weight.learning_rate == pytest.approx(rate / 3, rel=1e-12)
        for found, expected in [
            (weight.given, given),
            (weight.state_after["exp_avg"], m[name][index].item()),
            (weight.adamw.second_moment, v[name][index].item()),
            (weight.adamw.corrected_first, m[name][index].item() / (1 - beta1**3)),
            (weight.adamw.corrected_second, v[name][index].item() / (1 - beta2**3)),
            (weight.adamw.adaptive, adaptive),
            (weight.adamw.decay, shrunk),
            (weight.before, before[name][index].item()),
            (weight.after, weights[name][index].item()),
            (weight.change, adaptive + shrunk),
        ]:
            assert found == pytest.approx(expected, rel=1e-7, abs=1e-14)
        assert weight.relative_change == pytest.approx(weight.change / abs(weight.before))


def test_every_parameter_s_norms(small_run: Any) -> None:
    look = looked_at(small_run(), Look(2))
    gradients = plain_gradients(look.before, lambda network: plain_loss(network, look.batches))
    before, after = (dict(network.named_parameters()) for network in (look.before, look.after))
    assert [one.name for one in look.learning.parameters] == list(before)
    for one in look.learning.parameters:
        change = after[one.name].double() - before[one.name].double()
        assert one.weight_norm == pytest.approx(before[one.name].double().norm().item(), rel=1e-12)
        assert one.gradient_norm == pytest.approx(gradients[one.name].norm().item(), rel=1e-4)
        assert one.update_norm == pytest.approx(change.norm().item(), rel=1e-12)
        assert one.ratio == pytest.approx(one.update_norm / one.weight_norm)
        assert one.largest_change == change[tuple(one.largest_index)].item() and abs(one.largest_change) == change.abs().max()
        assert one.unchanged == (change == 0).sum() and one.learning_rate == 1e-2


def test_an_optimizer_s_own_numbers(small_run: Any) -> None:
    """SGD with momentum, and Muon: its momentum for matrices, AdamW's averages for the rest; the change is what was seen."""
    sgd = looked_at(
        small_run(recipe_arguments={"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9)}), Look(2, weights=WEIGHTS)
    )
    for weight in sgd.learning.weights:
        assert weight.adamw is None and weight.state_after.keys() == {"momentum_buffer"}
        assert weight.state_after["momentum_buffer"] == pytest.approx(0.9 * weight.state_before["momentum_buffer"] + weight.given, rel=1e-5)
        assert weight.change == pytest.approx(-0.1 * weight.state_after["momentum_buffer"], rel=1e-3, abs=1e-8)
    muon = looked_at(
        small_run(precision="64-true", recipe_arguments={"optimizer": lambda groups: Muon(groups, lr=0.01)}), Look(2, weights=WEIGHTS)
    )
    matrix, vector, table = muon.learning.weights
    assert matrix.state_after.keys() == {"momentum"} and vector.state_after.keys() == table.state_after.keys()
    assert {"average", "square_average", "step"} == set(vector.state_after)
    given, state = muon.step.gradients[matrix.parameter], muon.step.state_after[matrix.parameter]["momentum"]
    update = -0.01 * 0.2 * max(given.shape) ** 0.5 * orthogonalise(given.lerp(state, 0.95))
    assert matrix.change == pytest.approx(update[3, 5].item() - 0.01 * 0.1 * matrix.before, rel=1e-9)


def test_what_is_unusual_is_said(small_run: Any) -> None:
    def optimizer(groups: Any) -> Any:
        rates = {"matrix": 1e-2, "embedding": 1e-2, "vector": 0.0}
        return torch.optim.SGD([{**group, "lr": rates[group["role"]]} for group in groups])

    recipe, data, trainer = small_run(recipe_arguments={"optimizer": optimizer})
    look = Look(1)
    recipe.configure_model = lambda build=recipe.configure_model: (
        build(),
        recipe.network.blocks[1].feedforward.up.weight.register_hook(lambda gradient: 1e5 * gradient),
    )[0]
    looked_at((recipe, data, trainer), look)
    remarks = {one.name: one.remarks for one in look.learning.parameters}
    assert remarks["norm.weight"] == ["not one weight changed"]
    assert any("unusually large" in remark for remark in remarks["blocks.1.feedforward.up.weight"])
    assert not any("unusually large" in remark for name in remarks if name != "blocks.1.feedforward.up.weight" for remark in remarks[name])
