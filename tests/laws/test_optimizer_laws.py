"""Laws that every registered optimizer keeps: the conformance suite, and that order, grouping and accumulation do not matter."""

from __future__ import annotations

import itertools

import pytest
import torch

from framework.optimizers.groups import parameter_groups
from framework.registry import registry
from framework.testing.optimizers import CHECKS, Make

NAMES = [part.name for part in registry("framework.optimizers").parts() if part.distribution == "framework"]


@pytest.fixture(params=NAMES)
def make(request: pytest.FixtureRequest) -> Make:
    optimizer: Make = registry("framework.optimizers")[request.param]
    return optimizer


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(make: Make, check) -> None:  # type: ignore[no-untyped-def]
    check(make)


def test_a_check_can_fail() -> None:
    """A suite that passes everything would show nothing: each of these breaks exactly what its check is for."""

    class Forgetful(torch.optim.SGD):
        def load_state_dict(self, state_dict) -> None:  # type: ignore[no-untyped-def]
            pass

    class Eager(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):  # type: ignore[no-untyped-def]
            for group in self.param_groups:
                group["steps"] = group.get("steps", 0) + 1
                for parameter in group["params"]:
                    parameter.mul_(0.999)

    failed = {
        broken.__name__: {
            check.__name__ for check in CHECKS if _fails(check, lambda groups, broken=broken: broken(groups, lr=0.1, momentum=0.9))
        }
        for broken in (Forgetful, Eager)
    }
    assert failed["Forgetful"] == {"check_resumes_bitwise"}
    assert failed["Eager"] >= {
        "check_learning_rate_0_changes_nothing",
        "check_keeps_group_settings",
        "check_skips_missing_gradients",
        "check_calls_the_closure",
    }


def _fails(check, make) -> bool:  # type: ignore[no-untyped-def]
    try:
        check(make)
    except AssertionError:
        return True
    return False


def _after_training(make: Make, groups: int, micro_batches: int) -> list[torch.Tensor]:
    """Weights after ten steps of a float64 regression, with the parameters in some order of groups and the batch in some pieces."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.nn.Parameter(torch.randn(6, 4, generator=generator, dtype=torch.float64)) for name in ("first", "second")}
    bias = torch.nn.Parameter(torch.randn(6, generator=generator, dtype=torch.float64))
    data = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    named = [*weights.items(), ("bias", bias)]
    roles = {"first": "matrix", "second": "embedding", "bias": "vector"}
    order = list(itertools.permutations(parameter_groups(named, roles)))[groups]
    optimizer = make(list(order))
    for _ in range(10):
        optimizer.zero_grad(set_to_none=True)
        for rows in data.chunk(micro_batches):
            output = rows @ weights["first"].T + (rows @ weights["second"].T).tanh() + bias
            torch.autograd.backward(output.square().sum() / len(data))
        optimizer.step()
    return [parameter.detach() for _, parameter in named]


def test_order_of_groups_does_not_matter(make: Make) -> None:
    for first, second in zip(_after_training(make, 0, 1), _after_training(make, 5, 1), strict=True):
        assert torch.equal(first, second)


def test_accumulation_is_a_big_batch(make: Make) -> None:
    for whole, pieces in zip(_after_training(make, 0, 1), _after_training(make, 0, 4), strict=True):
        assert (whole - pieces).abs().max() < 1e-12
