"""Canaries: rivals have the secret's form, exposure is Carlini's formula, and one that was never seen has little of it."""

from __future__ import annotations

import math
import random

import pytest

from framework.errors import ConfigError
from framework.training.generalisation_canaries import Canary, exposure


def test_a_secret_is_marked() -> None:
    assert Canary.marked("The code is {4921-x}") == Canary("The code is ", "4921-x")
    assert Canary.marked("{4921}") == Canary("", "4921")
    for text in ("The code is 4921", "The {code} is", "{}"):
        with pytest.raises(ConfigError, match="marks no secret"):
            Canary.marked(text)
    with pytest.raises(ConfigError, match="no digit and no letter"):
        Canary.marked("The code is {+-}")


def test_rivals_have_the_same_form() -> None:
    canary = Canary("", "a4-Z9")
    rivals = canary.rivals(200, seed=0)
    assert len(set(rivals)) == 200 and canary.secret not in rivals and rivals == canary.rivals(200, seed=0) != canary.rivals(200, seed=1)
    for rival in rivals:
        assert rival[0].islower() and rival[1].isdigit() and rival[2] == "-" and rival[3].isupper() and rival[4].isdigit()
    assert len(Canary("", "42").rivals(1000, 0)) == 49  # of 99: a form that allows few is not drawn to its last


def test_exposure() -> None:
    assert exposure(1.0, [2.0] * 255) == 8.0
    assert exposure(3.0, [2.0] * 255) == 0.0
    assert exposure(2.0, [1.0, 3.0, 4.0]) == 1.0
    draw = random.Random(0)
    unseen = [exposure(draw.random(), [draw.random() for _ in range(255)]) for _ in range(2000)]
    assert sum(unseen) / len(unseen) == pytest.approx(math.log2(math.e), abs=0.1)
