"""Policy and value losses, KL estimators, advantages: the tables that are known, and definitions written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from framework.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    dpo_loss,
    generalised_advantages,
    group_advantages,
    kl_estimate,
    preference_loss,
    whiten,
)
from framework.losses.advantages import moments_of


@pytest.mark.parametrize("ratio, advantage, expected", [(1.5, 1, -1.2), (1.5, -1, 1.5), (0.5, 1, -0.5), (0.5, -1, 0.8)])
def test_the_policy_loss_is_clipped_on_the_side_that_gains(ratio: float, advantage: float, expected: float) -> None:
    loss = clipped_policy_loss(torch.tensor(math.log(ratio)), torch.tensor(0.0), torch.tensor(float(advantage)), 0.2, 0.2)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_bounds_of_the_ratio_are_apart() -> None:
    loss = clipped_policy_loss(torch.tensor(math.log(2.0)), torch.tensor(0.0), torch.tensor(1.0), 0.2, 0.5)
    assert loss.item() == pytest.approx(-1.5)
    loss = clipped_policy_loss(torch.tensor(math.log(0.1)), torch.tensor(0.0), torch.tensor(-1.0), 0.4, 0.2)
    assert loss.item() == pytest.approx(0.6)


@pytest.mark.parametrize("returns, expected", [(0.0, 0.5), (1.0, 0.045)])
def test_the_value_loss_takes_the_worse_of_both(returns: float, expected: float) -> None:
    loss = clipped_value_loss(torch.tensor(1.0), torch.tensor(0.5), torch.tensor(returns), 0.2)
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("kind, expected", [("k1", -0.5), ("k2", 0.125), ("k3", 0.148721)])
def test_kl_estimators(kind: str, expected: float) -> None:
    assert kl_estimate(torch.tensor(0.0), torch.tensor(0.5), kind).item() == pytest.approx(expected, abs=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kind, expected",
    [("k1", [0.0, 0.0, 0.0]), ("k2", [-0.0020567, -0.2015946, 0.2036513]), ("k3", [0.0425592, -0.2363258, 0.1937665])],
)
def test_gradients_of_kl_estimators_as_losses(kind: str, expected: list[float]) -> None:
    """By enumeration of all tokens; k2's is the true gradient."""
    theta = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.0, 0.5, -0.3], dtype=torch.float64).log_softmax(0)
    log_probs = theta.log_softmax(0)
    loss = (log_probs.detach().exp() * kl_estimate(log_probs, reference, kind)).sum()  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(gradient, torch.tensor(expected, dtype=torch.float64), atol=1e-7, rtol=0)
    if kind == "k2":
        (true,) = torch.autograd.grad((theta.log_softmax(0).exp() * (theta.log_softmax(0) - reference)).sum(), theta)
        torch.testing.assert_close(gradient, true, atol=1e-12, rtol=0)


def test_generalised_advantages_of_the_table() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.4, 0.3]])
    advantages, returns = generalised_advantages(rewards, values, torch.ones(1, 3, dtype=torch.bool), 1.0, 0.95)
    torch.testing.assert_close(advantages, torch.tensor([[0.43675, 0.565, 0.7]]))
    torch.testing.assert_close(returns, torch.tensor([[0.93675, 0.965, 1.0]]))


def ragged(lengths: list[int], width: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    return torch.randn(len(lengths), width, dtype=torch.float64), torch.randn(len(lengths), width, dtype=torch.float64), mask


@pytest.mark.parametrize("discount, smoothing", [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.7, 0.0)])
def test_generalised_advantages_are_the_sum_of_their_definition(discount: float, smoothing: float) -> None:
    lengths = [1, 3, 6]
    rewards, values, mask = ragged(lengths, 6)
    advantages, returns = generalised_advantages(rewards, values, mask, discount, smoothing)
    for row, length in enumerate(lengths):
        delta = [rewards[row, t] + (discount * values[row, t + 1] if t + 1 < length else 0.0) - values[row, t] for t in range(length)]
        for t in range(length):
            expected = sum((discount * smoothing) ** (k - t) * delta[k] for k in range(t, length))
            assert advantages[row, t].item() == pytest.approx(float(expected), abs=1e-12)
    assert not advantages[~mask].any() and not returns[~mask].any()
    if smoothing == 1.0:  # Monte Carlo: what was really got
        torch.testing.assert_close(returns[:, 0], (rewards * mask).sum(1) if discount == 1.0 else returns[:, 0])


def test_whitening_of_the_table_is_unbiased() -> None:
    rewards = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]])
    whitened = whiten(rewards, torch.ones(3, 3, dtype=torch.bool), shift_mean=False)
    torch.testing.assert_close(whitened[0], torch.tensor([0.1394, 0.5046, 0.8697]), atol=5e-5, rtol=0)


def test_whitening_sees_masked_places_only_and_leaves_the_rest_zero() -> None:
    values, _, mask = ragged([2, 5, 3], 5)
    whitened = whiten(values, mask)
    kept = whitened[mask]
    assert kept.mean().abs() < 1e-12 and kept.std().item() == pytest.approx(1.0, abs=1e-6)
    assert not whitened[~mask].any()
    torch.testing.assert_close(whitened, whiten(torch.where(mask, values, 1e6), mask))


def test_whitening_over_processes_is_whitening_of_all() -> None:
    values, _, mask = ragged([2, 5, 3, 4], 5)
    moments = moments_of(values[:1], mask[:1]) + moments_of(values[1:], mask[1:])
    apart = torch.cat([whiten(part, there, moments=moments) for part, there in ((values[:1], mask[:1]), (values[1:], mask[1:]))])
    torch.testing.assert_close(apart, whiten(values, mask), atol=1e-12, rtol=0)


def test_whitening_one_value_is_finite() -> None:
    assert whiten(torch.tensor([[3.0]]), torch.tensor([[True]])).isfinite().all()


def test_group_advantages_of_the_table() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    advantages = group_advantages(rewards)
    torch.testing.assert_close(advantages[0], 0.865875 * torch.tensor([1.0, -1.0, -1.0, 1.0]), atol=1e-6, rtol=0)
    assert not advantages[1].any()
    torch.testing.assert_close(group_advantages(rewards, scale=False)[0], torch.tensor([0.5, -0.5, -0.5, 0.5]))


def test_a_reply_that_was_not_judged_counts_in_no_mean() -> None:
    rewards = torch.tensor([[1.0, float("nan"), 0.0]])
    advantages = group_advantages(rewards, scale=False)
    torch.testing.assert_close(advantages, torch.tensor([[0.5, 0.0, -0.5]]))


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        group_advantages(torch.tensor([[1.0]]))


def test_the_preference_loss_of_equal_scores_is_ln_2_and_knows_differences_only() -> None:
    chosen, rejected = torch.tensor([0.3, 2.0]), torch.tensor([0.3, -1.0])
    loss = preference_loss(chosen, rejected)
    assert loss[0].item() == pytest.approx(0.693147, abs=1e-6)
    torch.testing.assert_close(preference_loss(chosen + 7, rejected + 7), loss)
    torch.testing.assert_close(preference_loss(chosen, rejected, torch.tensor([0.0, 3.0]))[1], loss[0])


@pytest.mark.parametrize(
    "kind, beta, smoothing, expected",
    [("sigmoid", 0.1, 0.0, 0.598139), ("ipo", 0.1, 0.0, 9.0), ("hinge", 0.1, 0.0, 0.8), ("sigmoid", 0.1, 0.5, (0.598139 + 0.798139) / 2)],
)
def test_dpo_of_a_margin_of_two(kind: str, beta: float, smoothing: float, expected: float) -> None:
    zero = torch.zeros(1)
    loss = dpo_loss(torch.tensor([2.0]), zero, zero, zero, beta, kind, smoothing)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_dpo_begins_at_ln_2() -> None:
    same = torch.tensor([-3.0]), torch.tensor([-5.0])
    assert dpo_loss(*same, *same, 0.1).item() == pytest.approx(0.6931471824645996, abs=1e-7)
    assert dpo_loss(*same, *same, 0.1, "robust", 0.2).item() == pytest.approx(0.6931471824645996, abs=1e-6)
