"""What the optimizer made of the gradients: weight by weight for some, parameter by parameter for all.

An observed step and the network after it flow in, plain values flow out. Changes are what was seen, not what a formula says; AdamW's
formula is set beside them. Must not know how they are shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from framework.inspection.learning.weights import Place
from framework.training.observation import ObservedStep

UNUSUAL = 10.0  # times the median of its role: an update that is pointed out


@dataclass(frozen=True)
class AdamWParts:
    """AdamW's update in its parts (arXiv 1711.05101): change = adaptive + decay, up to the rounding of the weight.

    Attributes:
        step: how many updates the moments have seen.
        beta1, beta2, eps: the optimizer's settings.
        first_moment: average of the gradient, m = beta1 m + (1 - beta1) g.
        second_moment: average of its square, v = beta2 v + (1 - beta2) g^2.
        corrected_first: m / (1 - beta1^step): without the pull of the zero it began with.
        corrected_second: v / (1 - beta2^step).
        adaptive: -lr corrected_first / (sqrt(corrected_second) + eps).
        decay: -lr weight_decay weight.
    """

    step: int
    beta1: float
    beta2: float
    eps: float
    first_moment: float
    second_moment: float
    corrected_first: float
    corrected_second: float
    adaptive: float
    decay: float


@dataclass(frozen=True)
class WeightStep:
    """One weight in one step.

    Attributes:
        parameter, index, role: which.
        gradient: of the mean loss.
        finite_difference: the slope of the loss in float64, found without any gradient.
        disagreement: the distance of the two over the larger.
        given: the gradient that the optimizer got, after clipping; None where the step was refused.
        before, after, change: the weight.
        relative_change: the change over the weight's size; None for a weight that was 0.
        learning_rate, weight_decay: of its group; None where the optimizer has no such setting.
        state_before, state_after: the optimizer's numbers for this weight, by its own names.
        adamw: the update in its parts, where the optimizer is AdamW.
    """

    parameter: str
    index: list[int]
    role: str
    gradient: float
    finite_difference: float
    disagreement: float
    given: float | None
    before: float
    after: float
    change: float
    relative_change: float | None
    learning_rate: float | None
    weight_decay: float | None
    state_before: dict[str, float]
    state_after: dict[str, float]
    adamw: AdamWParts | None


@dataclass(frozen=True)
class ParameterStep:
    """One parameter in one step.

    Attributes:
        name, role, shape: which.
        weight_norm: before.
        gradient_norm: of the mean loss, before clipping; None without a gradient.
        update_norm: of the change.
        ratio: update_norm / weight_norm; None for weights that were all 0.
        unchanged: how many of its weights stayed exactly as they were.
        largest_index, largest_change: the weight that moved most.
        learning_rate: of its group; None where the optimizer has none, or does not have the parameter.
        remarks: what is unusual.
    """

    name: str
    role: str
    shape: list[int]
    weight_norm: float
    gradient_norm: float | None
    update_norm: float
    ratio: float | None
    unchanged: int
    largest_index: list[int]
    largest_change: float
    learning_rate: float | None
    remarks: list[str]


def weight_step(
    step: ObservedStep, after: Mapping[str, Tensor], place: Place, role: str, gradient: float, finite_difference: float
) -> WeightStep:
    """What became of one weight.

    Args:
        step: the observed step.
        after: weights after it.
        place: which weight.
        role: its role.
        gradient: of the mean loss.
        finite_difference: what it should be.
    """
    name, index = place.parameter, place.index
    shape = after[name].shape
    before = dict(step.network.named_parameters())[name][index].item()
    now = after[name][index].item()
    settings = step.settings.get(name, {})
    given = step.gradients[name][index].item() if name in step.gradients else None
    larger = max(abs(gradient), abs(finite_difference))
    return WeightStep(
        parameter=name,
        index=list(index),
        role=role,
        gradient=gradient,
        finite_difference=finite_difference,
        disagreement=abs(gradient - finite_difference) / larger if larger else 0.0,
        given=given,
        before=before,
        after=now,
        change=now - before,
        relative_change=(now - before) / abs(before) if before else None,
        learning_rate=settings.get("lr"),
        weight_decay=settings.get("weight_decay"),
        state_before=_numbers(step.state_before.get(name, {}), index, shape),
        state_after=_numbers(step.state_after.get(name, {}), index, shape),
        adamw=_adamw_parts(step, place, before) if given is not None and isinstance(step.optimizer, torch.optim.AdamW) else None,
    )


def _numbers(state: Mapping[str, Any], index: tuple[int, ...], shape: torch.Size) -> dict[str, float]:
    """An optimizer's state as it concerns one weight: entries of tensors of the parameter's shape, and counters."""
    numbers: dict[str, float] = {}
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == shape:
            numbers[name] = value[index].item()
        elif isinstance(value, Tensor) and value.numel() == 1:
            numbers[name] = value.item()
        elif isinstance(value, int | float):
            numbers[name] = float(value)
    return numbers


def _adamw_parts(step: ObservedStep, place: Place, before: float) -> AdamWParts:
    state, settings = step.state_after[place.parameter], step.settings[place.parameter]
    count = int(state["step"])
    first, second = state["exp_avg"][place.index].item(), state["exp_avg_sq"][place.index].item()
    beta1, beta2 = settings["betas"]
    rate = settings["lr"]
    corrected_first, corrected_second = first / (1 - beta1**count), second / (1 - beta2**count)
    adaptive = -rate * corrected_first / (corrected_second**0.5 + settings["eps"])
    return AdamWParts(
        step=count,
        beta1=beta1,
        beta2=beta2,
        eps=settings["eps"],
        first_moment=first,
        second_moment=second,
        corrected_first=corrected_first,
        corrected_second=corrected_second,
        adaptive=adaptive,
        decay=-rate * settings["weight_decay"] * before,
    )


def parameter_steps(
    step: ObservedStep, after: Mapping[str, Tensor], roles: Mapping[str, str], gradients: Mapping[str, Tensor]
) -> list[ParameterStep]:
    """What became of every parameter that is trained.

    Args:
        step: the observed step.
        after: weights after it.
        roles: what each parameter is to the optimizer.
        gradients: of the mean loss.
    """
    seen = []
    for name, parameter in step.network.named_parameters():
        if parameter.requires_grad:
            seen.append(_parameter_step(step, name, parameter, after[name], roles[name], gradients.get(name)))
    medians = _medians(seen)
    return [_remarked(one, medians.get(one.role)) for one in seen]


def _parameter_step(
    step: ObservedStep, name: str, before: nn.Parameter, after: Tensor, role: str, gradient: Tensor | None
) -> ParameterStep:
    change = after.detach().double() - before.detach().double()
    flat = change.abs().flatten()
    most = int((flat == flat.max()).nonzero()[0, 0])
    index = [int(number) for number in torch.unravel_index(torch.tensor(most), change.shape)]
    weight_norm, update_norm = before.detach().double().norm().item(), change.norm().item()
    return ParameterStep(
        name=name,
        role=role,
        shape=list(change.shape),
        weight_norm=weight_norm,
        gradient_norm=None if gradient is None else gradient.double().norm().item(),
        update_norm=update_norm,
        ratio=update_norm / weight_norm if weight_norm else None,
        unchanged=int((change == 0).sum()),
        largest_index=index,
        largest_change=change[tuple(index)].item(),
        learning_rate=step.settings.get(name, {}).get("lr"),
        remarks=[],
    )


def _medians(seen: Sequence[ParameterStep]) -> dict[str, float]:
    """The middle of the update/weight ratios of each role."""
    ratios: dict[str, list[float]] = {}
    for one in seen:
        if one.ratio is not None:
            ratios.setdefault(one.role, []).append(one.ratio)
    return {role: statistics.median(values) for role, values in ratios.items()}


def _remarked(one: ParameterStep, median: float | None) -> ParameterStep:
    remarks, size = [], 1
    for width in one.shape:
        size *= width
    if one.gradient_norm is None:
        remarks.append("no gradient: it had no part in the loss, or the step was refused")
    if one.unchanged == size:
        remarks.append("not one weight changed")
    elif one.unchanged:
        remarks.append(f"{one.unchanged:,} of {size:,} weights did not change")
    if one.ratio is not None and median and one.ratio > UNUSUAL * median:
        remarks.append(f"unusually large: {one.ratio / median:.0f} times the median of its role")
    return ParameterStep(**{**vars(one), "remarks": remarks})
