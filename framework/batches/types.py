"""What a recipe receives. NamedTuples, because Lightning moves those between devices.

Shape legend: B rows, T tokens a row, N trained ones of all rows; of pairs R = 2B rows, the chosen replies first, then the rejected ones in the same order.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from framework.losses import IGNORE

__all__ = ["IGNORE", "PairBatch", "PromptBatch", "TokenBatch"]  # IGNORE: the target of a position that is not trained


class TokenBatch(NamedTuple):
    """Rows of tokens and, for each position, the token that comes next.

    Attributes:
        ids_BT: int64 inputs.
        targets_BT: int64, already shifted: the token after each input; IGNORE where nothing is trained.
        positions_BT: position of each token in its document, or None for 0..T-1.
        documents_BT: number of the document each token belongs to, or None where tokens may attend across documents.
        places_2N: rows and columns of the trained positions, where others are not trained; None: the targets say it. A recipe that asked
            the targets would make a GPU wait.
    """

    ids_BT: Tensor
    targets_BT: Tensor
    positions_BT: Tensor | None = None
    documents_BT: Tensor | None = None
    places_2N: Tensor | None = None


class PairBatch(NamedTuple):
    """Preference pairs: two replies to each of B prompts, every row a prompt with its reply, padded on the right.

    Attributes:
        ids_RT: int64 inputs.
        targets_RT: int64, already shifted: the token after each input where it belongs to the reply; IGNORE elsewhere.
        lengths_R: tokens of each row without its padding.
        margins_B: by how much the chosen reply is better, where the data says; 0 elsewhere.
        index_B: the pair's number in its part of the data.
        weights_B: 1 for a pair that counts, 0 for one that only fills a batch.
    """

    ids_RT: Tensor
    targets_RT: Tensor
    lengths_R: Tensor
    margins_B: Tensor
    index_B: Tensor
    weights_B: Tensor


class PromptBatch(NamedTuple):
    """Held-out prompts, by number.

    Attributes:
        index_B: number of each prompt in the validation part.
        weights_B: 1 for a prompt that counts, 0 for one that only fills a batch.
    """

    index_B: Tensor
    weights_B: Tensor
