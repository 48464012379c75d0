"""The coefficient of the KL penalty (TRAP-65; its published number stands in test_policy.py)."""

from __future__ import annotations

import pytest

from framework.recipes.kl_control import KLControl


@pytest.mark.parametrize(("kl", "factor"), [(6.0, 1.0), (6.6, 1.1), (100.0, 1.2), (0.0, 0.8), (-50.0, 0.8)])
def test_it_follows_the_relative_error_and_never_far(kl: float, factor: float) -> None:
    control = KLControl(0.5, target=6.0, horizon=64)
    control.update(kl, replies=64)
    assert control.coefficient == pytest.approx(0.5 * factor)


def test_it_reaches_its_target() -> None:
    """A policy whose KL falls with the coefficient comes to rest where the target is."""
    control = KLControl(0.01, target=2.0, horizon=100)
    for _ in range(400):
        kl = 1 / (0.1 + control.coefficient)
        control.update(kl, replies=32)
    assert kl == pytest.approx(2.0, rel=1e-3) and control.coefficient == pytest.approx(0.4, rel=1e-2)
