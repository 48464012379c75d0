"""Parameter groups: GPT-2's published counts, ties, frozen parameters, bad roles."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.optimizers.groups import parameter_groups


def test_gpt2_decays_50_tensors_and_leaves_98() -> None:
    """The counts that nanoGPT prints for GPT-2 (without biases in its tables they would differ)."""
    shape = NetworkShape(num_layers=12, width=768, num_heads=12, qkv_bias=True, out_bias=True, feedforward_bias=True, norm_bias=True)
    with torch.device("meta"):
        network = Transformer(shape, vocab_size=50257, context_length=1024)
    groups = parameter_groups(network.named_parameters(), network.roles())
    decayed = [parameter for group in groups if group.get("weight_decay") != 0.0 for parameter in group["params"]]
    left = [parameter for group in groups if group.get("weight_decay") == 0.0 for parameter in group["params"]]
    # our blocks keep queries, keys and values in one matrix or several: the number of elements is GPT-2's either way
    assert sum(parameter.numel() for parameter in decayed) == 124_318_464
    assert sum(parameter.numel() for parameter in left) == 121_344


def test_transformers_gpt2_tensor_counts() -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        network = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    roles = {
        name: "vector" if p.ndim < 2 else "embedding" if ".wte" in name or ".wpe" in name else "matrix"
        for name, p in network.named_parameters()
    }
    counts = {
        group["role"]: (len(group["params"]), sum(p.numel() for p in group["params"]))
        for group in parameter_groups(network.named_parameters(), roles)
    }
    assert counts["matrix"][0] + counts["embedding"][0] == 50
    assert counts["matrix"][1] + counts["embedding"][1] == 124_318_464
    assert counts["vector"] == (98, 121_344)


def _tiny() -> nn.Module:
    module = nn.Module()
    module.bias = nn.Parameter(torch.zeros(3))
    module.table = nn.Parameter(torch.zeros(5, 3))
    module.first = nn.Parameter(torch.zeros(3, 3))
    module.second = nn.Parameter(torch.zeros(3, 3))
    return module


ROLES = {"bias": "vector", "table": "embedding", "first": "matrix", "second": "matrix"}


def test_order_and_keys() -> None:
    module = _tiny()
    groups = parameter_groups(module.named_parameters(), ROLES)
    assert [group["role"] for group in groups] == ["matrix", "embedding", "vector"]
    assert [id(parameter) for parameter in groups[0]["params"]] == [id(module.first), id(module.second)]
    assert [group.get("weight_decay") for group in groups] == [None, None, 0.0]


def test_ties_once_and_frozen_never() -> None:
    module = _tiny()
    module.head = module.table
    module.second.requires_grad_(False)
    module.bias.requires_grad_(False)
    groups = parameter_groups(module.named_parameters(remove_duplicate=False), {**ROLES, "head": "matrix"})
    assert [(group["role"], len(group["params"])) for group in groups] == [("matrix", 1), ("embedding", 1)]


@pytest.mark.parametrize("roles", [{**ROLES, "first": "norm"}, {name: role for name, role in ROLES.items() if name != "first"}])
def test_a_parameter_without_a_known_role_is_named(roles: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="parameter first has the role"):
        parameter_groups(_tiny().named_parameters(), roles)


def test_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(_tiny().requires_grad_(False).named_parameters(), ROLES)
