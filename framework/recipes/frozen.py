"""Networks that a recipe looks at and never trains: a reference, a reward model.

They are kept out of the module's own parameters, so that no optimizer, checkpoint or gradient synchronisation meets them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from framework.networks.base import Network
from framework.networks.lora import LoRA


class Frozen:
    """A network in evaluation mode without gradients.

    Args:
        network: becomes this object's own.
    """

    def __init__(self, network: Network) -> None:
        self.network = network.eval().requires_grad_(False)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Move it, and where a type is given, turn its weights into that."""
        self.network.to(device=device, dtype=dtype)

    def run(self, compute: Callable[[Network], Any]) -> Any:
        """What `compute` makes of the network, without a graph."""
        with torch.no_grad():
            return compute(self.network)


class Reference:
    """The policy as it was before training: a frozen copy, or, of a LoRA network, itself with the adapter switched off.

    Args:
        policy: before its first step.
        own: another network to take instead; None: the policy as it is now.
    """

    def __init__(self, policy: Network, own: Network | None = None) -> None:
        self._adapted = policy if isinstance(policy, LoRA) and own is None else None
        if self._adapted is None:
            self._frozen: Frozen | None = Frozen(own if own is not None else copy.deepcopy(policy))
        else:
            self._frozen = None

    def follow(self, policy: Network) -> None:
        """Go where the policy is now, and take the type that the trainer's precision gave its weights: they must begin as equals."""
        if self._frozen is not None:
            weight_VD = policy.head_weight_VD
            self._frozen.to(weight_VD.device, weight_VD.dtype)

    def run(self, compute: Callable[[Network], Tensor]) -> Tensor:
        """What `compute` makes of the reference, without a graph."""
        if self._frozen is not None:
            result: Tensor = self._frozen.run(compute)
            return result
        assert self._adapted is not None
        training = self._adapted.training
        with torch.no_grad(), self._adapted.disabled():
            self._adapted.eval()
            try:
                return compute(self._adapted)
            finally:
                self._adapted.train(training)
