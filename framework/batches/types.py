"""What a recipe receives. NamedTuples, because Lightning moves those between devices.

Shape legend: B rows, T tokens a row.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from framework.losses import IGNORE

__all__ = ["IGNORE", "TokenBatch"]  # IGNORE: the target of a position that is not trained


class TokenBatch(NamedTuple):
    """Rows of tokens and, for each position, the token that comes next.

    Attributes:
        ids_BT: int64 inputs.
        targets_BT: int64, already shifted: the token after each input; IGNORE where nothing is trained.
        positions_BT: position of each token in its document, or None for 0..T-1.
        documents_BT: number of the document each token belongs to, or None where tokens may attend across documents.
    """

    ids_BT: Tensor
    targets_BT: Tensor
    positions_BT: Tensor | None = None
    documents_BT: Tensor | None = None
