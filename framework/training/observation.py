"""Optimizer steps seen from outside: what a step began with, what the optimizer was given, what it made of it. The run is not changed.

A run flows in, `ObservedStep`s flow out. Nothing is computed here; must not know what is looked for in them.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.optim import Optimizer

from framework.errors import ConfigError
from framework.training.progress import StepResult, Tracked

Values = dict[str, Tensor]  # by the parameter's name in the network
State = dict[str, dict[str, Any]]  # the optimizer's, by the parameter's name


@dataclass
class ObservedStep:
    """One optimizer step; it holds the weights, their gradients (twice) and the optimizer's state (twice).

    Attributes:
        number: of the step in its run, from 1.
        network: a copy of the network as it was before the step.
        micro_batches: each with the number that its randomness came from.
        raw_gradients: as the backward pass left them, in a unit of the recipe's.
        gradients: as the optimizer was given them; none where the step was refused.
        state_before: the optimizer's; none before a parameter's first step.
        state_after: likewise.
        settings: the optimizer's for each parameter: lr, weight_decay and the like.
        optimizer: the optimizer itself.
        result: what the recipe says of the step.
        clip_algorithm: the trainer's: norm or value; None where nothing is clipped.
    """

    number: int
    network: nn.Module
    optimizer: Optimizer
    clip_algorithm: str | None
    micro_batches: list[tuple[int, Any]] = field(default_factory=list)
    raw_gradients: Values = field(default_factory=dict)
    gradients: Values = field(default_factory=dict)
    state_before: State = field(default_factory=dict)
    state_after: State = field(default_factory=dict)
    settings: State = field(default_factory=dict)
    result: StepResult | None = None


class Watched(Tracked, Protocol):
    """A recipe with its network."""

    network: nn.Module


class StepObserver(Callback, ABC):
    """Hands chosen optimizer steps to `observe`, after them and outside of the run's random numbers; one process only.

    Args:
        steps: their numbers; the first of a run is 1.
    """

    def __init__(self, steps: Sequence[int]) -> None:
        if not steps or min(steps) < 1:
            raise ValueError(f"steps are {list(steps)}: name at least one optimizer step; the first is 1")
        self.steps = frozenset(steps)
        self._step: ObservedStep | None = None
        self._hooks: list[Any] = []

    @abstractmethod
    def observe(self, trainer: Trainer, recipe: Any, step: ObservedStep) -> None:
        """Look at a step that has just been taken. The recipe must be left as it is; generators may be used."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be seen."""
        if trainer.world_size > 1:
            raise ConfigError(
                f"a step is looked at on one process, and this run has {trainer.world_size}: --trainer.devices 1 --trainer.num_nodes 1."
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin where a chosen step begins; keep its micro-batches."""
        recipe = watched(pl_module)
        if recipe.at_step_boundary and recipe.progress.step + 1 in self.steps:
            self._begin(trainer, recipe)
        if self._step is not None:
            self._step.micro_batches.append((recipe.progress.batches, batch))

    def _begin(self, trainer: Trainer, recipe: Watched) -> None:
        optimizer = trainer.optimizers[0]
        clips = trainer.gradient_clip_algorithm or "norm" if trainer.gradient_clip_val else None
        step = ObservedStep(recipe.progress.step + 1, copy.deepcopy(recipe.network), optimizer, clips)
        step.state_before = _state(recipe.network, optimizer)
        self._step = step

        def given() -> None:
            step.gradients = _gradients(recipe.network)
            step.settings = _settings(recipe.network, optimizer)

        self._hooks = [optimizer.register_step_pre_hook(_between(given))]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Keep the gradients before they are normalised and clipped."""
        if self._step is not None:
            self._step.raw_gradients = _gradients(watched(pl_module).network)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Hand the step over when it is complete."""
        recipe, step = watched(pl_module), self._step
        if step is None or not recipe.at_step_boundary:
            return
        self._forget()
        step.result = recipe.last_step
        step.state_after = _state(recipe.network, step.optimizer)
        with isolate_rng():
            self.observe(trainer, recipe, step)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._forget()

    def _forget(self) -> None:
        self._step = None
        while self._hooks:
            self._hooks.pop().remove()


def watched(module: LightningModule) -> Watched:
    """The module as what an observer asks of it."""
    return cast(Watched, module)


def _between(look: Callable[[], None]) -> Callable[..., Any]:
    """A hook before an optimizer's step that looks where the gradients are final and the weights are still the old ones.

    Lightning computes the gradients, and normalises and clips them, inside the step's closure; with a gradient scaler before the step.
    """

    def hook(optimizer: Optimizer, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        closure = named.get("closure")
        if closure is None:
            look()
            return None

        def observed() -> Any:
            loss = closure()
            look()
            return loss

        return arguments, {**named, "closure": observed}

    return hook


def _gradients(network: nn.Module) -> Values:
    return {name: parameter.grad.detach().clone() for name, parameter in network.named_parameters() if parameter.grad is not None}


def _state(network: nn.Module, optimizer: Optimizer) -> State:
    return {name: _plain(optimizer.state[parameter]) for name, parameter in network.named_parameters() if parameter in optimizer.state}


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value) for name, value in state.items()}


def _settings(network: nn.Module, optimizer: Optimizer) -> State:
    """Of each parameter that the optimizer has, its group without the parameters."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        names[parameter]: {
            key: value.item() if isinstance(value, torch.Tensor) else value for key, value in group.items() if key != "params"
        }
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
