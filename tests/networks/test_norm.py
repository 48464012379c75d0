"""Norms against their formulas in float64, and what 16 bits must not cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from framework.networks.norm import Norm
from framework.networks.shape import NetworkShape, NormKind
from framework.networks.transformer import Transformer


def made(kind: NormKind, dtype: torch.dtype) -> tuple[Norm, Tensor]:
    generator = torch.Generator().manual_seed(0)
    norm = Norm(NetworkShape(1, 24, 2, norm=kind, norm_eps=1e-3), 24, bias=kind == "layer").to(dtype)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(24, generator=generator) * 0.01)  # next to 1, bf16 has steps of 0.0078
    return norm, (torch.randn(3, 5, 24, generator=generator) + 0.7).to(dtype)


def by_formula(norm: Norm, x: Tensor) -> Tensor:
    x, weight = x.double(), norm.weight.double()
    if norm.kind == "layer":
        assert norm.bias is not None
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight + norm.bias.double()
    return x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * (weight + 1 if norm.kind == "rms_plus_one" else weight)


@pytest.mark.parametrize("kind", ["layer", "rms", "rms_plus_one"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("trains", [True, False])  # without gradients our kernel may do it
def test_norms_are_their_formulas(kind: NormKind, dtype: torch.dtype, tolerance: float, trains: bool) -> None:
    norm, x = made(kind, dtype)
    with torch.set_grad_enabled(trains):
        found = norm(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.detach().double(), by_formula(norm, x).detach(), rtol=tolerance, atol=tolerance * 1e-2)


def test_a_norm_begins_as_none() -> None:
    for kind in ("rms", "rms_plus_one"):
        network = Transformer(NetworkShape(1, 24, 2, norm=kind, output_norms=True, qk_norm=True), 11, 8)
        norms = [module for module in network.modules() if isinstance(module, Norm)]
        assert len(norms) == 7
        x = torch.full((2, 24), 3.0)
        assert all(torch.allclose(norm(x[:, : len(norm.weight)]), torch.ones(len(norm.weight)), atol=1e-5) for norm in norms)


def test_embeddings_are_scaled_by_a_number_of_their_own_type() -> None:
    """As published: the root of 24 is 4.899, and 4.90625 in bf16."""
    network = Transformer(NetworkShape(1, 24, 2, positions="rotary", scaled_embeddings=True), 11, 8).bfloat16()
    seen: list[Tensor] = []
    network.blocks[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    network(torch.arange(8)[None])
    assert torch.equal(seen[0][0], network.embedding.weight[:8] * torch.tensor(4.90625, dtype=torch.bfloat16))
