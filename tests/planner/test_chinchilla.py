"""The three approaches of Hoffmann et al. 2022 against its own figures, and their fit's minimum against a search."""

from __future__ import annotations

import pytest

from framework.planner.chinchilla import APPROACH_1, APPROACH_2, APPROACH_3, REFIT, Loss, optima


def test_the_loss_of_chinchilla_itself() -> None:
    assert APPROACH_3(70e9, 1.4e12) == pytest.approx(1.93665, abs=5e-6)


@pytest.mark.parametrize("loss", [APPROACH_3, REFIT], ids=["printed", "refitted"])
@pytest.mark.parametrize("flops", [1e18, 5.76e23])
def test_the_optimum_is_the_minimum(loss: Loss, flops: float) -> None:
    best = loss.optimal_parameters(flops)
    losses = {factor: loss(best * factor, flops / (6 * best * factor)) for factor in (0.9, 0.99, 1.0, 1.01, 1.1)}
    assert min(losses, key=losses.__getitem__) == 1.0


def test_the_approaches_give_the_paper_s_rows() -> None:
    """Tables 3 and A3: exact at their rows; their tokens (as printed) follow from 6 N D."""
    for rows, name, tokens in ((APPROACH_1, "approach 1", 1.5e12), (APPROACH_2, "approach 2", 1.7e12)):
        for parameters, flops in rows:
            found = next(each for each in optima(flops) if each.approach.startswith(name))
            assert found.parameters == pytest.approx(parameters)
        found = next(each for each in optima(rows[3][1]) if each.approach.startswith(name))
        assert found.tokens == pytest.approx(tokens, rel=0.05)


def test_the_exponents_of_the_paper() -> None:
    """N grows with C to the power of .50, .49 (table 2), and .513 in the refit, whose authors give .512."""
    low, high = optima(1e20), optima(1e24)
    from math import log

    exponents = [log(after.parameters / before.parameters) / log(1e4) for before, after in zip(low, high, strict=True)]
    assert exponents == pytest.approx([0.5, 0.50, 0.49, 0.4516, 0.5126], abs=0.008)


def test_the_rule_of_thumb_and_the_refit_agree_at_gopher_s_budget() -> None:
    rule, *_, refit = optima(5.76e23)
    assert rule.tokens_a_parameter == pytest.approx(20) and rule.parameters == pytest.approx(69.3e9, rel=1e-3)
    assert 15 < refit.tokens_a_parameter < 25
    assert all(6 * each.parameters * each.tokens == pytest.approx(5.76e23) for each in optima(5.76e23))
