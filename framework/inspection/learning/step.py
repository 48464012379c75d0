"""One step of learning, explained: batch, computation graph, gradients checked, what the optimizer made of them, losses before and after.

A recipe that has just taken a step and that step, observed, flow in; one tree of plain values flows out, which text, page and JSON show.
What is computed here is computed with the recipe's own code, with a copy of the network in its place, and leaves no trace in the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from framework.errors import ConfigError
from framework.inspection.learning.batch import BatchTable, batch_table
from framework.inspection.learning.graph import Call, computation_graph
from framework.inspection.learning.update import ParameterStep, WeightStep, parameter_steps, weight_step
from framework.inspection.learning.weights import Place, check_places, finite_differences, largest
from framework.recipes.policy import PolicyRecipe
from framework.recipes.recipe import Recipe
from framework.training.measures import Measures
from framework.training.observation import ObservedStep
from framework.training.randomness import seed_generators


@dataclass(frozen=True)
class Summary:
    """The step in figures.

    Attributes:
        recipe, network, optimizer: classes.
        parameters: of the network.
        step: its number in the run, from 1.
        micro_batches: of the step.
        item, num_items: what the loss is a mean over, and how many there were.
        loss: the mean loss that was trained on.
        loss_again: the same computed again, with the weights as they were.
        loss_after: the same batch, the same dropout, with the weights as they are now.
        expected_change: of the loss, by the gradient alone: the sum of gradient times change over all weights.
        validation_before, validation_after: the recipe's own metrics of the first validation batch; empty without one.
        gradient_norm: before clipping.
        clip_factor: norm of what the optimizer was given over the norm before; 1: nothing was clipped; None: the step was refused.
        clip_algorithm: norm or value; None: the run clips nothing.
        learning_rate: of the first group.
        dropout: whether the network was in training mode, where dropout may act.
        refused: the loss or gradient was not finite, and nothing was changed.
    """

    recipe: str
    network: str
    optimizer: str
    parameters: int
    step: int
    micro_batches: int
    item: str
    num_items: float
    loss: float
    loss_again: float
    loss_after: float
    expected_change: float
    validation_before: dict[str, float]
    validation_after: dict[str, float]
    gradient_norm: float
    clip_factor: float | None
    clip_algorithm: str | None
    learning_rate: float
    dropout: bool
    refused: bool


@dataclass(frozen=True)
class Learning:
    """One step of learning.

    Attributes:
        summary: the step in figures.
        batch: what its first micro-batch asked and what the network answered before the step.
        graph: of that micro-batch's loss.
        weights: some weights, their gradients checked, their updates explained.
        parameters: all parameters that are trained.
    """

    summary: Summary
    batch: BatchTable
    graph: Call
    weights: list[WeightStep]
    parameters: list[ParameterStep]

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values; numbers that JSON has no word for become null."""
        plain: dict[str, Any] = _without_infinities(asdict(self))
        return plain


def learning(recipe: Recipe, step: ObservedStep, rows: int = 2, places: Sequence[Place] = ()) -> Learning:
    """Explain a step that `recipe` has just taken; the step's network then has the weights after it, too.

    Args:
        recipe: with the weights after the step.
        step: as it was observed.
        rows: so many rows of the batch are shown.
        places: the weights to look at; none: those with the largest gradients.

    Raises:
        ConfigError: a batch that cannot be shown, a weight that there is not, a device without float64.
    """
    assert step.result is not None
    if recipe.device.type == "mps":
        raise ConfigError("gradients are checked in float64, which this device does not have: --trainer.accelerator cpu.")
    live, before = recipe.network, step.network
    roles, after = live.roles(), {name: parameter.detach() for name, parameter in live.named_parameters()}
    check_places(places, dict(live.named_parameters()))
    gradients = _loss_gradients(step)
    chosen = list(places) or largest(gradients, roles)
    with standing_in(recipe, before):
        table = batch_table(recipe, step.micro_batches[0][1], rows, partial(repeat, recipe, step, 0))
        graph = computation_graph(before, lambda: _share(recipe, step, 0)[0])
        loss_again = mean_loss(recipe, step)
        validation_before = validation(recipe)
    slopes = finite_differences(before, chosen, partial(_loss_of, recipe, step))
    weights = [
        weight_step(step, after, place, roles[place.parameter], _at(gradients, place), slope) for place, slope in zip(chosen, slopes)
    ]
    parameters = parameter_steps(step, after, roles, gradients)
    expected = _expected_change(before, after, gradients)
    _take_weights(before, after)
    with standing_in(recipe, before):
        loss_after, validation_after = mean_loss(recipe, step), validation(recipe)
    given = _norm(step.gradients)
    summary = Summary(
        recipe=type(recipe).__name__,
        network=type(live).__name__,
        optimizer=type(step.optimizer).__name__,
        parameters=live.num_parameters(),
        step=step.number,
        micro_batches=len(step.micro_batches),
        item=recipe.item,
        num_items=step.result.num_items,
        loss=step.result.total / step.result.num_items if step.result.num_items else float("nan"),
        loss_again=loss_again,
        loss_after=loss_after,
        expected_change=expected,
        validation_before=validation_before,
        validation_after=validation_after,
        gradient_norm=step.result.gradient_norm,
        clip_factor=given / step.result.gradient_norm if step.gradients and step.result.gradient_norm else None,
        clip_algorithm=step.clip_algorithm,
        learning_rate=step.result.learning_rate,
        dropout=live.training,
        refused=not step.gradients,
    )
    return Learning(summary, table, graph, weights, parameters)


@contextmanager
def standing_in(recipe: Recipe, network: nn.Module) -> Iterator[None]:
    """Another network in a recipe's place, with measures and a metric to be thrown away: what is computed meanwhile leaves no trace."""
    kept = recipe.network, recipe.measures, recipe.metric
    recipe.network, recipe.measures, recipe.metric = network, Measures(), recipe.new_metric().to(recipe.device)  # type: ignore[assignment]
    try:
        yield
    finally:
        recipe.network, recipe.measures, recipe.metric = kept


def repeat(recipe: Recipe, step: ObservedStep, number: int) -> None:
    """Set the generators to what they were at a micro-batch of the step."""
    seed_generators(recipe.seed, step.micro_batches[number][0] + recipe.global_rank)


def _share(recipe: Recipe, step: ObservedStep, number: int) -> tuple[Tensor, Tensor]:
    """A micro-batch's summed loss and its items, as in the step."""
    repeat(recipe, step, number)
    with recipe.precision():
        objective = recipe.objective(step.micro_batches[number][1])
    return objective.total, objective.num_items


def mean_loss(recipe: Recipe, step: ObservedStep) -> float:
    """The step's loss with the recipe's network. A graph is made, as in the step: without one other kernels would run, which round otherwise."""
    totals = [tuple(share.item() for share in _share(recipe, step, number)) for number in range(len(step.micro_batches))]
    num_items = sum(items for _, items in totals)
    return float(sum(total for total, _ in totals) / num_items) if num_items else float("nan")


def _loss_of(recipe: Recipe, step: ObservedStep, network: nn.Module) -> float:
    """As `mean_loss`, of a network in float64, outside of the run's precision."""
    totals, num_items = 0.0, 0.0
    with standing_in(recipe, network), torch.no_grad():
        for number, (_, batch) in enumerate(step.micro_batches):
            repeat(recipe, step, number)
            objective = recipe.objective(batch)
            totals, num_items = totals + objective.total.item(), num_items + objective.num_items.item()
    return totals / num_items


@torch.no_grad()
def validation(recipe: Recipe) -> dict[str, float]:
    """The recipe's metrics of its first validation batch; none for a policy, which is judged by new replies and not by a loss."""
    loaders = recipe.data.val_dataloader()
    batch = None if isinstance(recipe, PolicyRecipe) or isinstance(loaders, list) else next(iter(loaders), None)
    if batch is None:
        return {}
    batch = recipe.data.transfer_batch_to_device(batch, recipe.device, 0)
    mode = {module: module.training for module in recipe.network.modules()}
    recipe.network.eval()
    with recipe.precision():
        recipe.evaluate(batch)
    for module, training in mode.items():
        module.training = training
    metrics: Mapping[str, Tensor] = recipe.metric.compute()
    return {name: float(value) for name, value in metrics.items()}


def _loss_gradients(step: ObservedStep) -> dict[str, Tensor]:
    """Of the mean loss, before clipping: the raw gradients at the size that the recipe says their norm has."""
    assert step.result is not None
    raw = _norm(step.raw_gradients)
    scale = step.result.gradient_norm / raw if raw else 0.0
    return {name: gradient * scale for name, gradient in step.raw_gradients.items()}


def _norm(gradients: Mapping[str, Tensor]) -> float:
    """As the recipe takes it, rounding included: the two are divided by each other."""
    return float(torch.nn.utils.get_total_norm(list(gradients.values())))


def _at(gradients: Mapping[str, Tensor], place: Place) -> float:
    return gradients[place.parameter][place.index].item() if place.parameter in gradients else 0.0


def _expected_change(before: nn.Module, after: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> float:
    parameters = dict(before.named_parameters())
    changes = (
        (gradient.double() * (after[name].double() - parameters[name].detach().double())).sum().item()
        for name, gradient in gradients.items()
    )
    return float(sum(changes))


def _take_weights(network: nn.Module, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(values[name])


def _without_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_infinities(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(inner) for inner in value]
    return None if isinstance(value, float) and value - value != 0 else value
