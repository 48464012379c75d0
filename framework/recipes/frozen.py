"""Networks that a recipe looks at and never trains: a reference, a reward model.

They are kept out of the module's own parameters, so that no optimizer, checkpoint or gradient synchronisation meets them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from framework.networks.base import Network
from framework.networks.lora import LoRA

Kind = TypeVar("Kind", bound=Network)


def frozen(network: Kind) -> Kind:
    """The network itself, in evaluation mode and without gradients from here on."""
    return network.eval().requires_grad_(False)


class Reference:
    """The policy as it was before training: a frozen copy, or, of a LoRA network, itself with the adapter switched off.

    Args:
        policy: before its first step.
    """

    def __init__(self, policy: Network) -> None:
        self.network = policy if isinstance(policy, LoRA) else frozen(copy.deepcopy(policy))

    def follow(self, policy: Network) -> None:
        """Go where the policy is now, and take the type that the trainer's precision gave its weights: they must begin as equals."""
        if self.network is not policy:
            weight_VD = policy.head_weight_VD
            self.network.to(weight_VD.device, weight_VD.dtype)

    @torch.no_grad()
    def run(self, compute: Callable[[Network], Tensor]) -> Tensor:
        """What `compute` makes of the reference, without a graph."""
        if not isinstance(self.network, LoRA):
            return compute(self.network)
        training = self.network.training
        with self.network.disabled():
            self.network.eval()
            try:
                return compute(self.network)
            finally:
                self.network.train(training)
