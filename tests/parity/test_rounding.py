"""The bounds hold for everything a type can do to random weights, and for nothing else."""

from __future__ import annotations

import pytest
import torch

from framework.parity import rounding

WEIGHTS = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 2, 64)[:, None]


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_rounded_weights_are_within_the_bound_and_others_are_not(kind: str) -> None:
    if kind.startswith("Q"):
        gguf = pytest.importorskip("gguf")
        number = gguf.GGMLQuantizationType[kind]
        rounded = torch.from_numpy(gguf.dequantize(gguf.quantize(WEIGHTS.numpy(), number), number))
    else:
        rounded = WEIGHTS.to({"F16": torch.float16, "BF16": torch.bfloat16}[kind])
    assert 0 < rounding.beyond(WEIGHTS, rounded, kind) <= 1
    assert rounding.beyond(WEIGHTS[16:], rounded[16:].roll(1, 1), kind) > 1  # below a float16's steps nothing can be told
    changed = rounded.float().clone()
    changed[40, 7] += 2.5 * rounding.BOUNDS[kind].share * WEIGHTS[40].abs().max()
    assert rounding.beyond(WEIGHTS, changed, kind) > 1


def test_the_coarsest_type() -> None:
    assert rounding.coarsest({"F32", "Q8_0", "F16"}) == "Q8_0"
    assert rounding.coarsest({"F32", "Q4_K"}) is None and rounding.coarsest(set()) is None
