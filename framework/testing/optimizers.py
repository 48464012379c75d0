"""What every optimizer must do. Checks take the class, or a callable that makes an optimizer from parameter groups.

Shape legend: A rows, B columns of a weight matrix. Must not know any particular optimizer.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from framework.optimizers.groups import parameter_groups

Make = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class _Toy(nn.Module):
    """A linear map of embeddings with a bias: every role once."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(12, 8, generator=generator))
        self.weight_AB = nn.Parameter(torch.randn(6, 8, generator=generator))
        self.bias = nn.Parameter(torch.randn(6, generator=generator))

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups as a recipe makes them."""
        return parameter_groups(self.named_parameters(), {"table": "embedding", "weight_AB": "matrix", "bias": "vector"})

    def loss(self) -> Tensor:
        """A smooth loss whose least value, 0, every parameter has a share in."""
        return (self.table @ self.weight_AB.T + self.bias).square().mean()

    def values(self) -> list[Tensor]:
        """Copies of the parameters."""
        return [parameter.detach().clone() for parameter in self.parameters()]


def _train(toy: _Toy, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(toy.loss())
        optimizer.step()


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(first == second)


def check_lowers_the_loss(make: Make) -> None:
    """Fifty steps at its own learning rate lower the loss of a toy."""
    toy = _Toy()
    before = toy.loss().item()
    _train(toy, make(toy.groups()), 50)
    after = toy.loss().item()
    assert after < before, f"the loss went from {before:.6g} to {after:.6g} in 50 steps"


def check_moves_every_role(make: Make) -> None:
    """Embeddings, matrices and vectors are all updated."""
    toy = _Toy()
    before = toy.values()
    _train(toy, make(toy.groups()), 2)
    still = [name for (name, parameter), old in zip(toy.named_parameters(), before, strict=True) if torch.equal(parameter, old)]
    assert not still, f"{', '.join(still)} did not change in two steps"


def check_learning_rate_0_changes_nothing(make: Make) -> None:
    """The learning rate is read from the group at every step and scales the whole update, decay included: schedules rely on it."""
    toy = _Toy()
    optimizer = make(toy.groups())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = toy.values()
    _train(toy, optimizer, 3)
    assert _same(before, toy.values()), "a group's lr of 0 does not stop the updates"


def check_keeps_group_settings(make: Make) -> None:
    """A group's `role` stays with it, and its own `weight_decay` of 0 means that zero gradients change nothing."""
    toy = _Toy()
    optimizer = make(toy.groups())
    assert [group["role"] for group in optimizer.param_groups] == ["matrix", "embedding", "vector"], "groups or their roles were changed"
    before = toy.bias.detach().clone()
    for parameter in toy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(before, toy.bias), "a vector with weight_decay 0 and a zero gradient changed"


def check_skips_missing_gradients(make: Make) -> None:
    """A step without gradients (a non-finite step is skipped that way) leaves weights, state and counters as they are."""
    toy = _Toy()
    optimizer = make(toy.groups())
    for steps in (0, 3):
        _train(toy, optimizer, steps)
        before, state = toy.values(), copy.deepcopy(optimizer.state_dict())
        optimizer.zero_grad(set_to_none=True)
        optimizer.step()
        assert _same(before, toy.values()), f"a step without gradients changed weights (after {steps} steps)"
        assert _same(state, optimizer.state_dict()), f"a step without gradients changed the optimizer's state (after {steps} steps)"


def check_resumes_bitwise(make: Make) -> None:
    """Its state, saved and loaded without pickled objects, goes on exactly where it was."""
    toy = _Toy()
    optimizer = make(toy.groups())
    _train(toy, optimizer, 5)
    file = io.BytesIO()
    torch.save({"weights": toy.state_dict(), "optimizer": optimizer.state_dict()}, file)
    _train(toy, optimizer, 5)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = _Toy()
    resumed.load_state_dict(saved["weights"])
    other = make(resumed.groups())
    other.load_state_dict(saved["optimizer"])
    _train(resumed, other, 5)
    assert _same(toy.values(), resumed.values()), "a resumed optimizer gives other weights than one that was not interrupted"
    assert _same(optimizer.state_dict(), other.state_dict()), "a resumed optimizer's state differs from one that was not interrupted"


def check_calls_the_closure(make: Make) -> None:
    """`step(closure)` computes gradients inside and returns the loss: Lightning trains that way."""
    toy = _Toy()
    optimizer = make(toy.groups())

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = toy.loss()
        torch.autograd.backward(loss)
        return loss

    before, expected = toy.values(), toy.loss()
    returned = optimizer.step(closure)  # type: ignore[arg-type]
    assert isinstance(returned, Tensor) and torch.equal(returned, expected), "step(closure) does not return the closure's loss"
    assert not _same(before, toy.values()), "step(closure) changed nothing"


CHECKS: tuple[Callable[[Make], None], ...] = (
    check_lowers_the_loss,
    check_moves_every_role,
    check_learning_rate_0_changes_nothing,
    check_keeps_group_settings,
    check_skips_missing_gradients,
    check_resumes_bitwise,
    check_calls_the_closure,
)
