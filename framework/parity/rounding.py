"""How far two copies of a tensor may be from each other when one of them is stored in fewer bits.

Every bound is a share of the largest number in a row, and follows from the type: half a step of what is rounded, and the rounding of
a block's scale. A wrong permutation or a changed number goes beyond it; a rounded one cannot. Must not know files.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

STEP = 2.0**-25  # half the smallest step of a float16


class Bound(NamedTuple):
    """What rounding can change.

    Attributes:
        share: of the largest number in the row.
        floor: of any number, however small the row's are.
    """

    share: float
    floor: float


BOUNDS = {
    "F64": Bound(0.0, 0.0),
    "F32": Bound(2.0**-24, 0.0),
    "F16": Bound(2.0**-11, STEP),
    "BF16": Bound(2.0**-8, 0.0),
    "Q8_0": Bound(1 / 254 + 2.0**-10, 127 * STEP),  # steps of 1/127 of the largest, in blocks of 32 whose scale is a float16
    "Q4_0": Bound(1 / 8 + 2.0**-10, 8 * STEP),  # steps of 1/8, and the largest of the other sign is cut off by a whole one
}
LOG_PROBS = {"F64": 1e-4, "F32": 1e-4, "F16": 0.02, "BF16": 0.1, "Q8_0": 0.2, "Q4_0": 2.0}  # mean difference allowed, nats
KINDS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def coarsest(kinds: Collection[str]) -> str | None:
    """The type that rounds most; None when one of them is not known here."""
    return max(kinds, key=lambda kind: BOUNDS[kind].share) if kinds and set(kinds) <= BOUNDS.keys() else None


def beyond(one: Tensor, other: Tensor, kind: str) -> float:
    """By how many times the largest difference goes beyond what a type's rounding can do, row by row; up to 1: it does not."""
    rows, others = (tensor.reshape(-1, tensor.shape[-1] if tensor.ndim else 1).double() for tensor in (one, other))
    largest = torch.maximum(rows.abs().amax(-1), others.abs().amax(-1))
    difference = (rows - others).abs().amax(-1)
    allowed = largest * BOUNDS[kind].share + BOUNDS[kind].floor
    return float((difference / allowed.clamp(min=torch.finfo(torch.float64).tiny)).max())
