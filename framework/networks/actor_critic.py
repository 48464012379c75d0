"""A policy and the critic that estimates what its replies will be worth, trained together.

Ids flow in, the policy's hidden states and the critic's values flow out. Must not know rewards, advantages or losses.

Shape legend: B batch, T time, N some of the tokens, D model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from framework.networks.base import Network, Places, Role
from framework.networks.parts import as_part
from framework.networks.scalar_head import ScalarHead
from framework.networks.wrapper import Wrapper


class ActorCritic(Wrapper):
    """As a network it is its policy; `values` are the critic's.

    Args:
        policy: writes and is trained to write better.
        critic: a network of its own; None: a linear layer, of zeros at first, on the policy's hidden states.
    """

    def __init__(self, policy: Network, critic: ScalarHead | None) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic
        self.vocab_size, self.context_length = policy.vocab_size, policy.context_length
        weight_VD = policy.head_weight_VD
        self.value_head = None
        if critic is None:
            self.value_head = nn.Linear(weight_VD.shape[1], 1, device=weight_VD.device, dtype=weight_VD.dtype)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    @property
    def inner(self) -> Network:
        return self.policy

    def values(self, places: Places, ids_BT: Tensor, hidden_ND: Tensor | None = None) -> Tensor:
        """What is still to come from each of some tokens on, [N], in fp32 or wider.

        Args:
            places: the tokens.
            ids_BT: the sequences.
            hidden_ND: the policy's hidden states of the tokens, where they are known: a critic without a network of its own reads them.
        """
        if self.critic is not None:
            values_N = self.critic.values(self.critic.hidden_at(places, ids_BT))
        else:
            assert self.value_head is not None
            values_N = self.value_head(self.policy.hidden_at(places, ids_BT) if hidden_ND is None else hidden_ND)[..., 0]
        return values_N.to(torch.promote_types(values_N.dtype, torch.float32))

    @property
    def init_args(self) -> dict[str, Any]:
        return {"policy": as_part(self.policy), "critic": None if self.critic is None else as_part(self.critic)}

    def roles(self) -> dict[str, Role]:
        roles = {f"policy.{name}": role for name, role in self.policy.roles().items()}
        if self.critic is None:
            return {**roles, "value_head.weight": "matrix", "value_head.bias": "vector"}
        return {**roles, **{f"critic.{name}": role for name, role in self.critic.roles().items()}}

    def num_parameters(self) -> int:
        return self.policy.num_parameters() + (0 if self.critic is None else self.critic.num_parameters())

    def flops_per_token(self, length: int) -> int:
        return self.policy.flops_per_token(length) + (0 if self.critic is None else self.critic.flops_per_token(length))
