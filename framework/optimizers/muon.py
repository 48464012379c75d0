"""Muon for the matrices, AdamW for everything else, in one optimizer.

Parameter groups with a role flow in; `step` turns gradients into updates. Must not know networks, schedules or trainers.
Shape legend: A output rows, B input columns of a weight matrix; leading dimensions stack matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import ParamsT

from framework.optimizers.adamw import can_fuse

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Keller Jordan's quintic: steepest at zero, singular values end within about [0.7, 1.2]
NEWTON_SCHULZ_STEPS = 5
RMS_OF_ADAMW = 0.2  # arXiv 2502.16982, section 2.2: the typical root mean square of an AdamW update


def orthogonalise(update_AB: Tensor, steps: int = NEWTON_SCHULZ_STEPS) -> Tensor:
    """The nearest (semi-)orthogonal matrix, roughly: U S V^T becomes U S' V^T with S' near 1; [..., A, B], in the input's dtype.

    Newton-Schulz iteration in bfloat16 on CUDA, where it is fast, and in the input's precision (at least fp32) elsewhere.
    """
    compute = torch.bfloat16 if update_AB.is_cuda else torch.promote_types(update_AB.dtype, torch.float32)
    a, b, c = COEFFICIENTS
    tall = update_AB.shape[-2] > update_AB.shape[-1]
    x: Tensor = (update_AB.mT if tall else update_AB).to(compute)  # the Gram matrix below is then the smaller of the two
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # spectral norm at most 1
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).to(update_AB.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are orthogonalised (Keller Jordan, kellerjordan.github.io/posts/muon), with AdamW for the rest.

    Groups tell which is which by their key `role` (framework.optimizers.groups): "matrix" is Muon's, every other role AdamW's.
    The update follows Moonshot's convention (arXiv 2502.16982, equation 4), which gives it the size of an AdamW update,
    `W -= lr * (0.2 * sqrt(max(A, B)) * orthogonalise(momentum) + weight_decay * W)`, so that one learning rate and one decay, those
    tuned for AdamW, serve both parts. (Keller Jordan's `sqrt(max(1, A / B))` wants rates near 0.02 and a second one for AdamW.)
    A fused query-key-value matrix is orthogonalised as one matrix. Parameters of three or more dimensions are stacks of matrices.

    Args:
        params: groups with a `role`.
        lr: learning rate at its highest; a scheduler multiplies it.
        weight_decay: fraction of a weight, times lr, that each step removes, for both parts; a group's own value goes first.
        momentum: decay rate of the gradient's average, for the matrices.
        nesterov: look one momentum step ahead.
        adamw_lr: learning rate of AdamW's part; None: the same as `lr`.
        betas: AdamW's decay rates.
        eps: added to AdamW's denominator.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 3e-4,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        adamw_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        rates = {"lr": lr, "weight_decay": weight_decay, "adamw_lr": 0.0 if adamw_lr is None else adamw_lr, "eps": eps}
        if negative := [name for name, value in rates.items() if not value >= 0.0]:
            raise ValueError(f"{negative[0]} is {rates[negative[0]]} and must be at least 0")
        fractions = {"momentum": momentum, "the first of betas": betas[0], "the second of betas": betas[1]}
        if outside := [name for name, value in fractions.items() if not 0.0 <= value < 1.0]:
            raise ValueError(f"{outside[0]} is {fractions[outside[0]]} and must be at least 0 and below 1")
        self._adamw_lr = adamw_lr
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov, "betas": tuple(betas), "eps": eps}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as every optimizer does; Muon's need a `role`. Raises ValueError without one or for a matrix that is none."""
        if "role" not in param_group:
            raise ValueError('Muon needs parameter groups with a "role" (framework.optimizers.groups.parameter_groups makes them)')
        if param_group["role"] != "matrix" and self._adamw_lr is not None:
            param_group.setdefault("lr", self._adamw_lr)
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        if added["role"] == "matrix" and (flat := [tuple(parameter.shape) for parameter in added["params"] if parameter.ndim < 2]):
            raise ValueError(f"a parameter of shape {flat[0]} has the role matrix: matrices have two dimensions or more")
        added["fused"] = added["role"] != "matrix" and can_fuse(added["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; the others, and their state, stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["role"] == "matrix":
                for parameter in parameters:
                    self._update_matrix(parameter, group)
            elif parameters:
                self._update_rest(parameters, group)
        return loss

    def _update_matrix(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(average, group["momentum"]) if group["nesterov"] else average
        scale = RMS_OF_ADAMW * math.sqrt(max(parameter.shape[-2:]))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(orthogonalise(update), alpha=-group["lr"] * scale)

    def _update_rest(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                # torch's kernels want the counter as a tensor: beside the parameter when fused, on the CPU when not
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device if group["fused"] else "cpu")
                state["average"], state["square_average"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["average"] for state in states],
            [state["square_average"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
