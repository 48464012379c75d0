"""Weights by name, the largest gradients, and slopes without a backward pass."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from looking import Look, looked_at, plain_gradients, plain_loss  # type: ignore[import-not-found]

from framework.errors import ConfigError
from framework.inspection.learning.weights import Place, check_places, finite_differences, largest, parse_places, split_places


def test_gradients_agree_with_slopes_and_with_a_backward_pass_of_our_own(small_run: Any) -> None:
    for precision, bound in (("64-true", 1e-6), ("32-true", 1e-5)):
        look = looked_at(small_run(precision=precision, gradient_clip_val=0.1), Look(3))
        gradients = plain_gradients(look.before, lambda network, look=look: plain_loss(network, look.batches))  # type: ignore[misc]
        assert len(look.learning.weights) == 5  # the tied table is the only embedding
        for weight in look.learning.weights:
            expected = gradients[weight.parameter][tuple(weight.index)].item()
            assert weight.gradient == pytest.approx(expected, rel=bound)
            assert weight.finite_difference == pytest.approx(expected, rel=1e-6)
            assert weight.disagreement < bound


def test_a_wrong_gradient_is_seen(small_run: Any) -> None:
    recipe, data, trainer = small_run(max_steps=1)
    trainer.callbacks.append(look := Look(1, weights=["blocks.0.attention.out.weight[0,0]"]))
    recipe.configure_model = lambda build=recipe.configure_model: (
        build(),
        recipe.network.blocks[0].attention.out.weight.register_hook(lambda gradient: 1.01 * gradient),
    )[0]
    trainer.fit(recipe, data)
    assert look.learning.weights[0].disagreement == pytest.approx(0.01 / 1.01, rel=1e-2)


def test_the_largest_gradients_of_each_role_one_of_a_parameter() -> None:
    gradients = {
        "a": torch.tensor([[1.0, -5.0], [5.0, 0.0]]),
        "b": torch.tensor([[2.0]]),
        "c": torch.tensor([[3.0]]),
        "d": torch.tensor([0.0, -1.0]),
        "e": torch.tensor([0.0]),
    }
    roles = {"a": "matrix", "b": "matrix", "c": "matrix", "d": "vector", "e": "vector"}
    assert largest(gradients, roles) == [Place("a", (0, 1)), Place("c", (0, 0)), Place("d", (1,))]


def test_slopes_of_a_known_function() -> None:
    network = nn.Linear(2, 1, bias=False)
    network.weight.data = torch.tensor([[0.5, 30.0]])
    slopes = finite_differences(
        network, [Place("weight", (0, 0)), Place("weight", (0, 1))], lambda wide: (wide.weight[0, 0] ** 3 + wide.weight[0, 1].log()).item()
    )
    assert slopes == pytest.approx([0.75, 1 / 30], rel=1e-8)
    assert network.weight.tolist() == [[0.5, 30.0]] and network.weight.dtype == torch.float32


def test_places_in_words() -> None:
    assert split_places("a.b[0,1],c[2]") == ["a.b[0,1]", "c[2]"] and split_places("") == []
    assert parse_places(["a.b[0, 1]", "c[2]"]) == [Place("a.b", (0, 1)), Place("c", (2,))]
    assert str(Place("a.b", (0, 1))) == "a.b[0,1]"
    for wrong in ("a", "a[]", "a[-1]", "[1]", "a[1]b"):
        with pytest.raises(ConfigError, match=re.escape(repr(wrong))):
            parse_places([wrong])


@pytest.mark.parametrize(
    ("place", "saying"),
    [
        (Place("wieght", (0, 0)), "no parameter wieght; did you mean weight?"),
        (Place("weight", (0, 2)), "weight[0,2] is outside of weight, whose shape is [1, 2]"),
        (Place("weight", (0,)), "weight[0] is outside"),
        (Place("bias", (0,)), "bias is frozen"),
    ],
)
def test_places_that_there_are_not(place: Place, saying: str) -> None:
    network = nn.Linear(2, 1)
    network.bias.requires_grad_(False)
    with pytest.raises(ConfigError, match=re.escape(saying)):
        check_places([place], dict(network.named_parameters()))
