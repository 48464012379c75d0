"""Verdicts on synthetic curves, whose truth is known: with noise, with few groups, with a loss that is no number."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from framework.training.generalisation_verdict import Evaluated, Verdict, judge

GROUPS = 20


def curve(
    validation: Callable[[int], float],
    train: Callable[[int], float],
    evaluations: int,
    noise: float = 0.0,
    groups: int = GROUPS,
    seed: int = 0,
) -> list[Evaluated]:
    """Evaluations at which each group is as hard as it always is, plus noise of its own, nats a token."""
    draw = random.Random(seed)
    hardness = [draw.gauss(0.0, 1.0) for _ in range(groups)]
    centre = sum(hardness) / groups
    history = []
    for number in range(evaluations):
        losses = [validation(number) + hard - centre + draw.gauss(0.0, noise) for hard in hardness]
        history.append(Evaluated(100 * (number + 1), train(number), tuple(100.0 * loss for loss in losses), (100.0,) * groups))
    return history


def verdict(history: list[Evaluated], min_improvement: float = 0.005, patience: int = 3) -> Verdict:
    return judge(history, min_improvement, patience)


def falling(number: int) -> float:
    return 3.0 * 0.8**number + 1.0


def rising_after(turn: int) -> Callable[[int], float]:
    return lambda number: 2.0 + 0.1 * abs(number - turn)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_known_curves(noise: float) -> None:
    assert verdict(curve(falling, falling, 8, noise)).kind == "still learning"
    assert verdict(curve(lambda number: 2.0, falling, 8, noise)).kind == "converged"
    assert verdict(curve(rising_after(4), falling, 9, noise)).kind == "overfitting"
    assert verdict(curve(rising_after(4), rising_after(4), 9, noise)).kind == "diverging"
    assert verdict(curve(falling, falling, 3, noise)).kind == "too early"


def test_the_reason_has_the_numbers() -> None:
    said = verdict(curve(rising_after(4), falling, 9))
    assert "lowest at step 500 (2.0000)" in said.reason and "0.4000" in said.reason and "4 evaluations later" in said.reason
    assert f"fell from {falling(4):.4f} to {falling(8):.4f}" in said.reason
    said = verdict(curve(lambda number: 2.0 - 0.001 * number, lambda number: 1.5, 8))
    assert "no improvement of over 0.005: a change of -0.0030" in said.reason and "gap to the training loss 0.4930" in said.reason


def test_patience_is_how_long_it_must_show() -> None:
    history = curve(rising_after(4), falling, 20)
    assert [verdict(history[: 5 + later]).kind == "overfitting" for later in range(1, 6)] == [False, False, True, True, True]
    assert verdict(history[:8], patience=5).kind == "still learning" and verdict(history[:10], patience=5).kind == "overfitting"


def test_a_single_bad_evaluation_is_not_overfitting() -> None:
    history = curve(lambda number: 2.0 - 0.1 * number + (1.0 if number == 6 else 0.0), falling, 8)
    assert {verdict(history[:length]).kind for length in range(4, 9)} == {"still learning"}


def test_noise_alone_is_no_news() -> None:
    """Of a flat curve the verdict is that it is flat, hardly ever that it rises or falls: the interval is a 95% one."""
    said = [verdict(curve(lambda number: 2.0, falling, 12, noise=0.1, seed=seed), min_improvement=0.0).kind for seed in range(300)]
    assert said.count("converged") > 270 and said.count("overfitting") < 10


def test_a_fall_that_the_noise_hides_is_not_called_learning() -> None:
    said = [verdict(curve(lambda number: 2.0 - 0.005 * number, falling, 8, noise=0.1, seed=seed)) for seed in range(40)]
    hidden = [each for each in said if "an improvement that chance explains" in each.reason]
    assert len(hidden) > 10 and {each.kind for each in hidden} == {"converged"}


def test_pairing_sees_what_hard_and_easy_groups_would_hide() -> None:
    """Groups differ by a nat, the change is a fiftieth of that: only the difference of each group with itself shows it."""
    first, *_, last = curve(lambda number: 2.0 - 0.02 * number, falling, 2, noise=0.001)
    paired = last.rise_from(first)
    assert paired.high is not None and paired.high < 0 and paired.value == pytest.approx(-0.02, abs=0.001)
    other = Evaluated(last.step, last.train_loss, last.nats[:-1], last.tokens[:-1])  # a resumed run on other ranks: not the same groups
    unpaired = other.rise_from(first)
    assert unpaired.low is not None and unpaired.high is not None and unpaired.low < -0.1 and unpaired.high > 0.1


def test_the_error_is_the_spread_of_the_differences() -> None:
    draw = random.Random(3)
    tokens = tuple(float(draw.randint(50, 150)) for _ in range(12))
    before = Evaluated(1, 1.0, tuple(2.0 * n for n in tokens), tokens)
    after = Evaluated(2, 1.0, tuple((2.0 + draw.gauss(0.1, 0.05)) * n for n in tokens), tokens)
    rise = after.rise_from(before)
    changes = [(now - then) for now, then in zip(after.nats, before.nats)]
    value = sum(changes) / sum(tokens)
    squares = sum((change - value * n) ** 2 for change, n in zip(changes, tokens))
    assert rise.value == pytest.approx(value)
    assert rise.high == pytest.approx(value + 1.959964 * math.sqrt(12 / 11 * squares) / sum(tokens))


def test_few_groups_leave_patience_alone_to_decide() -> None:
    history = curve(rising_after(4), falling, 9, groups=2)
    assert history[-1].rise_from(history[4]).low is None and verdict(history).kind == "overfitting"


def test_losses_are_weighted_by_tokens() -> None:
    assert Evaluated(1, 0.5, (10.0, 90.0), (10.0, 30.0)).loss == 2.5 and Evaluated(1, 0.5, (10.0, 90.0), (10.0, 30.0)).gap == 2.0


def test_what_is_not_finite_is_said() -> None:
    history = curve(falling, falling, 6)
    broken = Evaluated(700, 1.0, (float("nan"),) * GROUPS, (100.0,) * GROUPS)
    assert verdict([*history, broken]).kind == "diverging" and "nan" in verdict([*history, broken]).reason
    assert verdict([*history[:3], broken, *history[3:]]).kind == "still learning"
