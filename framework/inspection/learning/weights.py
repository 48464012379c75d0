"""Weights under the glass: which ones, and whether the gradient tells the truth about them.

An observed step flows in, places and finite differences flow out. Must not know how they are shown.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from framework.errors import ConfigError

OF_EACH_ROLE = 2
STEP = 1e-6  # of a weight up to 1: small, so that few ReLUs turn on or off in between; rounding leaves 1e-16 / STEP in float64
FORM = re.compile(r"([\w.]+)\[\s*(\d+(?:\s*,\s*\d+)*)\s*\]")


@dataclass(frozen=True)
class Place:
    """One weight: its parameter's name and its index there."""

    parameter: str
    index: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.parameter}[{','.join(map(str, self.index))}]"


def parse_places(words: Iterable[str]) -> list[Place]:
    """Places written `name[index, ...]`. Raises ConfigError naming what is written otherwise."""
    places = []
    for word in words:
        found = FORM.fullmatch(word.strip())
        if found is None:
            raise ConfigError(f"weights: {word!r} names no weight; write NAME[INDEX,...], as blocks.0.attention.qkv.weight[3,5].")
        places.append(Place(found[1], tuple(int(number) for number in found[2].split(","))))
    return places


def split_places(text: str) -> list[str]:
    """`a[0,1],b[2]` -> `a[0,1]`, `b[2]`: commas inside brackets part nothing."""
    return [word for word in re.split(r",(?![^\[]*\])", text) if word.strip()]


def check_places(places: Iterable[Place], parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise ConfigError for a weight that there is not, or that is not trained."""
    for place in places:
        parameter = parameters.get(place.parameter)
        if parameter is None:
            near = difflib.get_close_matches(place.parameter, parameters, n=1, cutoff=0.0)
            raise ConfigError(f"weights: the network has no parameter {place.parameter}; did you mean {near[0]}?")
        shape = list(parameter.shape)
        if len(shape) != len(place.index) or any(number >= size for number, size in zip(place.index, shape)):
            raise ConfigError(f"weights: {place} is outside of {place.parameter}, whose shape is {shape}; indices count from 0.")
        if not parameter.requires_grad:
            raise ConfigError(f"weights: {place.parameter} is frozen in this recipe; choose one that is trained.")


def largest(gradients: Mapping[str, Tensor], roles: Mapping[str, str]) -> list[Place]:
    """Of each role the weights with the largest gradients, one of a parameter: what the loss depends on most. Ties go to the first.

    One that is not a number is larger than all: it is what a step was refused for.
    """
    peaks = []
    for name, gradient in gradients.items():
        size = gradient.abs().flatten().nan_to_num(nan=torch.inf, posinf=torch.inf)
        peak = size.max()
        place = int((size == peak).nonzero()[0, 0])
        peaks.append(
            (roles[name], -peak.item(), Place(name, tuple(int(i) for i in torch.unravel_index(torch.tensor(place), gradient.shape))))
        )
    chosen = []
    for role in dict.fromkeys(roles.values()):
        chosen += sorted((peak for peak in peaks if peak[0] == role and peak[1]), key=lambda peak: peak[1])[:OF_EACH_ROLE]
    return [place for _, _, place in chosen]


def finite_differences(network: nn.Module, places: Iterable[Place], loss: Callable[[nn.Module], float]) -> list[float]:
    """Central differences of the loss at some weights: (loss with the weight a little larger - with it a little smaller) / distance.

    Args:
        network: is copied in float64, and stays as it is.
        places: the weights.
        loss: of such a copy.
    """
    wide = copy.deepcopy(network).double()
    parameters = dict(wide.named_parameters())
    slopes = []
    for place in places:
        weight = parameters[place.parameter].data
        kept = weight[place.index].item()
        step = STEP * max(1.0, abs(kept))
        losses = []
        for value in (kept + step, kept - step):
            weight[place.index] = value
            losses.append(loss(wide))
        weight[place.index] = kept
        slopes.append((losses[0] - losses[1]) / ((kept + step) - (kept - step)))
    return slopes
