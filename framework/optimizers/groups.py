"""Parameter groups: what each parameter is to the optimizer, and which ones decay.

A network's named parameters and their roles flow in, the list that every `torch.optim.Optimizer` takes flows out.
Must not know networks (it is given names and roles) or any particular optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

ROLES = ("matrix", "embedding", "vector")  # framework.networks.base.Role, in the order of the groups


def parameter_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], roles: Mapping[str, str]) -> list[dict[str, Any]]:
    """One group a role, in the order matrix, embedding, vector; inside a group the order of `named_parameters`.

    Vectors (norms and biases) get `weight_decay` 0.0, as in GPT-2 and nanoGPT; the others keep the optimizer's own. Frozen
    parameters are left out, a tied one occurs once, a role without parameters has no group.

    Args:
        named_parameters: `network.named_parameters()`.
        roles: `network.roles()`: "matrix", "embedding" or "vector" for every name.

    Returns:
        Groups with the keys `params` and `role`, and `weight_decay` where nothing decays.

    Raises:
        ValueError: a parameter without a role or with an unknown one, or nothing to train.
    """
    members: dict[str, list[nn.Parameter]] = {role: [] for role in ROLES}
    seen: set[int] = set()
    for name, parameter in named_parameters:
        if not parameter.requires_grad or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        if roles.get(name) not in members:
            raise ValueError(f"parameter {name} has the role {roles.get(name)}: the network's roles() must give one of {', '.join(ROLES)}")
        members[roles[name]].append(parameter)
    groups = [_group(role, parameters) for role, parameters in members.items() if parameters]
    if not groups:
        raise ValueError("there is nothing to train: every parameter is frozen")
    return groups


def _group(role: str, parameters: list[nn.Parameter]) -> dict[str, Any]:
    return {"params": parameters, "role": role, **({"weight_decay": 0.0} if role == "vector" else {})}
