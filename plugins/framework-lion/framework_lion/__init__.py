"""The optimizer Lion. Parameter groups flow in; `step` turns gradients into updates of one size, in the direction of their sign."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim.optimizer import ParamsT

__all__ = ["Lion"]


class Lion(torch.optim.Optimizer):
    """Evolved sign momentum (Chen et al. 2023, arXiv 2302.06675, algorithm 2): half of AdamW's state, every update of size lr.

    The averages' rates are the paper's. Its section 5 advises a learning rate 3 to 10 times smaller than AdamW's and a decay as
    many times larger; the defaults are a third and three times framework's AdamW.

    Args:
        params: parameters or groups of them.
        lr: learning rate at its highest, the size of each update; a scheduler multiplies it.
        betas: how much of the average the update keeps, and how much of it the average itself keeps.
        weight_decay: fraction of a weight, times lr, that each step removes (decoupled); a group's own value goes first.

    Raises:
        ValueError: a value outside its range.
    """

    def __init__(self, params: ParamsT, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.3) -> None:
        if not lr >= 0.0 or not weight_decay >= 0.0:
            raise ValueError(f"lr is {lr} and weight_decay is {weight_decay}: both must be at least 0")
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas are {betas}: both must be at least 0 and below 1")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; the others, and their state, stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update_beta, average_beta = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["average"] = torch.zeros_like(parameter)
                direction = state["average"].lerp(parameter.grad, 1 - update_beta).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
                state["average"].lerp_(parameter.grad, 1 - average_beta)
        return loss
