"""Our losses on random float64 numbers beside the formulas of the papers, written another way: by cases, probabilities and enumeration."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from framework.losses import clipped_policy_loss, clipped_value_loss, dpo_loss, group_advantages, kl_estimate, preference_loss, whiten
from framework.losses.policy import KLKind
from framework.losses.preference import DPOKind

COUNT = 200
NEAR = 1e-12


def draws(number: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(COUNT, generator=generator, dtype=torch.float64) * scale for _ in range(number)]


def with_slope(loss: Callable[[Tensor], Tensor], at: Tensor) -> list[tuple[float, float]]:
    """Each element's loss and its derivative."""
    point = at.clone().requires_grad_()
    losses = loss(point)
    (slopes,) = torch.autograd.grad(losses.sum(), point)
    return list(zip(losses.tolist(), slopes.tolist(), strict=True))


@pytest.mark.parametrize("low, high", [(0.2, 0.2), (0.2, 0.28), (0.5, 0.1)])
def test_the_clipped_surrogate_by_cases(low: float, high: float) -> None:
    """PPO, figure 1: outside the bounds nothing is gained any more, so nothing pulls."""
    new, old, advantages = draws(3, 0.5)
    found = with_slope(lambda new: clipped_policy_loss(new, old, advantages, low, high), new)
    for (loss, slope), log_ratio, advantage in zip(found, (new - old).tolist(), advantages.tolist(), strict=True):
        ratio = math.exp(log_ratio)
        bound = 1 + high if advantage > 0 else 1 - low
        beyond = ratio > bound if advantage > 0 else ratio < bound
        assert loss == pytest.approx(-advantage * (bound if beyond else ratio), abs=NEAR)
        assert slope == pytest.approx(0.0 if beyond else -advantage * ratio, abs=NEAR)


def test_the_clipped_value_loss_by_cases() -> None:
    """The old value moved towards the new one by at most the bound; of both errors the larger one counts."""
    new, old, returns = draws(3, 0.5)
    found = with_slope(lambda new: clipped_value_loss(new, old, returns, 0.2), new)
    for (loss, slope), value, before, goal in zip(found, new.tolist(), old.tolist(), returns.tolist(), strict=True):
        held = before + math.copysign(0.2, value - before) if abs(value - before) > 0.2 else value
        expected = max(abs(value - goal), abs(held - goal))
        assert loss == pytest.approx(expected**2 / 2, abs=NEAR)
        assert slope == pytest.approx(value - goal if expected == abs(value - goal) else 0.0, abs=NEAR)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_unbiased_estimators_average_to_the_divergence(kind: KLKind) -> None:
    """Over all tokens, each as often as the policy draws it."""
    policy, reference = (numbers.log_softmax(0) for numbers in draws(2))
    average = (policy.exp() * kl_estimate(policy, reference, kind)).sum()
    divergence = torch.distributions.kl_divergence(*(torch.distributions.Categorical(logits=table) for table in (policy, reference)))
    assert average.item() == pytest.approx(divergence.item(), abs=NEAR)
    if kind == "k3":
        assert (kl_estimate(policy, reference, kind) >= 0).all()


def test_whitening_by_the_standard_library() -> None:
    values, kept = draws(2)
    mask = kept > 0
    inside = values[mask].tolist()
    mean, deviation = statistics.mean(inside), statistics.stdev(inside)
    expected = [(value - mean) / deviation if there else 0.0 for value, there in zip(values.tolist(), mask.tolist(), strict=True)]
    assert whiten(values[None], mask[None])[0].tolist() == pytest.approx(expected, abs=1e-7)  # 1e-8 is added to the variance


def test_group_advantages_by_the_standard_library() -> None:
    (rewards,) = draws(1)
    groups = rewards.view(-1, 5)
    for scale in (True, False):
        for found, group in zip(group_advantages(groups, scale).tolist(), groups.tolist(), strict=True):
            divisor = statistics.stdev(group) + 1e-4 if scale else 1.0
            assert found == pytest.approx([(reward - statistics.mean(group)) / divisor for reward in group], abs=NEAR)


def test_preferences_are_probabilities() -> None:
    """Bradley and Terry: the chosen one wins with e^s over the sum of both e^s."""
    chosen, rejected, margins = draws(3)
    wins = chosen.exp() / (chosen.exp() + (rejected + margins).exp())
    for (loss, slope), win in zip(
        with_slope(lambda chosen: preference_loss(chosen, rejected, margins), chosen), wins.tolist(), strict=True
    ):
        assert loss == pytest.approx(-math.log(win), abs=NEAR)
        assert slope == pytest.approx(win - 1, abs=NEAR)


def preferred(policy: list[Tensor], beta: float) -> list[float]:
    """How probable DPO's implied rewards make it that the chosen reply wins: (chosen, rejected, and both under the reference)."""
    chosen, rejected = ((policy[side].exp() / policy[side + 2].exp()) ** beta for side in (0, 1))
    return (chosen / (chosen + rejected)).tolist()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_dpo_is_the_likelihood_of_the_preferences(smoothing: float) -> None:
    """Equation 7 of arXiv 2305.18290; a share of the labels turned round; the gradient of its section 4."""
    chosen, *others = policy = draws(4)
    found = with_slope(lambda chosen: dpo_loss(chosen, *others, beta=0.7, label_smoothing=smoothing), chosen)
    for (loss, slope), win in zip(found, preferred(policy, 0.7), strict=True):
        assert loss == pytest.approx(-(1 - smoothing) * math.log(win) - smoothing * math.log(1 - win), abs=NEAR)
        assert slope == pytest.approx(-0.7 * (1 - smoothing - win), abs=NEAR)


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_robust_dpo_of_noisy_labels_is_dpo_of_right_ones_on_average(noise: float) -> None:
    """What arXiv 2403.00409 makes it for."""
    chosen, rejected, reference_chosen, reference_rejected = draws(4)
    right = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, 0.7, "robust", noise)
    wrong = dpo_loss(rejected, chosen, reference_rejected, reference_chosen, 0.7, "robust", noise)
    clean = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, 0.7)
    torch.testing.assert_close((1 - noise) * right + noise * wrong, clean, atol=NEAR, rtol=0)


@pytest.mark.parametrize("kind", ["hinge", "ipo"])
def test_margins_that_are_wide_enough(kind: DPOKind) -> None:
    """SLiC is content beyond 1 / beta; IPO wants 1 / (2 beta) exactly (arXiv 2310.12036, equation 17)."""
    chosen, *others = policy = draws(4, 3.0)
    beta = 0.25
    margins = [math.log(win / (1 - win)) for win in preferred(policy, 1.0)]
    for (loss, slope), margin in zip(with_slope(lambda chosen: dpo_loss(chosen, *others, beta, kind), chosen), margins, strict=True):
        too_little = 1 / beta - margin
        by_kind = {
            "hinge": (beta * max(too_little, 0.0), -beta if too_little > 0 else 0.0),
            "ipo": ((margin - 0.5 / beta) ** 2, 2 * (margin - 0.5 / beta)),
        }
        assert (loss, slope) == pytest.approx(by_kind[kind], abs=1e-9)
