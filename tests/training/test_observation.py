"""What is kept of a step: weights and state before, gradients as they were and as they were given, settings, batches."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from framework.training.observation import ObservedStep, StepObserver


class Keep(StepObserver):
    def __init__(self, steps: list[int]) -> None:
        super().__init__(steps)
        self.seen: list[ObservedStep] = []

    def observe(self, trainer: Any, recipe: Any, step: ObservedStep) -> None:
        torch.rand(7)  # generators may be used
        random.random()
        self.seen.append(step)


class Recorder(torch.optim.SGD):
    """Calls torch's own step inside its own, and changes the gradients it was given afterwards."""

    def __init__(self, groups: Any, lr: float = 0.1) -> None:
        super().__init__(groups, lr=lr, momentum=0.9)
        self.given: list[list[torch.Tensor]] = []

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        self.given.append([gradient.clone() for gradient in gradients])
        super().step()
        for gradient in gradients:
            gradient.zero_()
        return loss


def test_gradients_are_those_that_the_optimizer_was_given(small_run: Any) -> None:
    recipe, data, trainer = small_run(
        recipe_arguments={"optimizer": Recorder}, gradient_clip_val=0.01, accumulate_grad_batches=2, max_steps=3
    )
    trainer.callbacks.append(keep := Keep([1, 3]))
    trainer.fit(recipe, data)
    assert [step.number for step in keep.seen] == [1, 3] and [len(step.micro_batches) for step in keep.seen] == [2, 2]
    assert [number for step in keep.seen for number, _ in step.micro_batches] == [0, 1, 4, 5]
    for step, number in zip(keep.seen, (0, 2)):
        named = {name: step.gradients[name] for name, _ in recipe.network.named_parameters()}
        found = sorted((tuple(gradient.shape), gradient.sum().item()) for gradient in named.values())
        assert found == sorted((tuple(gradient.shape), gradient.sum().item()) for gradient in recipe.optimizers().given[number])
        assert torch.nn.utils.get_total_norm(list(step.gradients.values())).item() == pytest.approx(0.01, rel=1e-3)
        assert torch.nn.utils.get_total_norm(list(step.raw_gradients.values())).item() > 0.02
    assert not any(keep.seen[0].state_before.values())
    for name, state in keep.seen[1].state_before.items():
        moved = 0.9 * state["momentum_buffer"] + keep.seen[1].gradients[name]
        torch.testing.assert_close(keep.seen[1].state_after[name]["momentum_buffer"], moved)
    assert keep.seen[0].settings["norm.weight"]["lr"] == 0.1 and keep.seen[0].settings["norm.weight"]["role"] == "vector"
    assert keep.seen[0].clip_algorithm == "norm" and keep.seen[1].result == recipe.last_step


def test_the_network_is_the_one_before(small_run: Any) -> None:
    recipe, data, trainer = small_run(max_steps=2, recipe_arguments={"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1)})
    trainer.callbacks.append(keep := Keep([2]))
    trainer.fit(recipe, data)
    (step,) = keep.seen
    after = dict(recipe.network.named_parameters())
    for name, before in step.network.named_parameters():
        torch.testing.assert_close(before - 0.1 * step.gradients[name], after[name])
        assert before is not after[name]
    assert step.clip_algorithm is None


def test_a_refused_step_has_no_gradients(small_run: Any) -> None:
    recipe, data, trainer = small_run(max_steps=1)
    honest = recipe.objective
    recipe.objective = lambda batch: honest(batch)._replace(total=honest(batch).total * math.nan)
    trainer.callbacks.append(keep := Keep([1]))
    trainer.fit(recipe, data)
    assert keep.seen[0].gradients == {} and keep.seen[0].raw_gradients and math.isnan(keep.seen[0].result.total)


def test_no_hook_is_left_when_a_run_fails(small_run: Any) -> None:
    recipe, data, trainer = small_run()

    def fails(batch: Any) -> Any:
        raise ZeroDivisionError

    recipe.objective = fails
    trainer.callbacks.append(keep := Keep([1]))
    with pytest.raises(ZeroDivisionError):
        trainer.fit(recipe, data)
    assert keep._hooks == [] and not trainer.optimizers[0]._optimizer_step_pre_hooks


def test_the_run_s_random_numbers_are_left_alone(small_run: Any) -> None:
    states = []
    for observers in ([], [Keep([1, 2])]):
        recipe, data, trainer = small_run(max_steps=2)
        trainer.callbacks += observers
        trainer.fit(recipe, data)
        states.append((torch.get_rng_state(), random.getstate()))
    assert torch.equal(states[0][0], states[1][0]) and states[0][1] == states[1][1]
