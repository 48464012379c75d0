"""What a batch of fine-tuning must be before it is trained on: something is trained, and a reply's end with it.

Batches flow in; nothing flows out but an error. Must not know networks or recipes.

Shape legend: B rows, T tokens a row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import Tensor

from framework.batches.types import IGNORE
from framework.errors import DataError


def check_targets(ids_BT: Tensor, targets_BT: Tensor, end_ids: Collection[int], full_targets: int, where: str) -> None:
    """Raise DataError for a batch in which nothing is trained, or a reply whose end is not: the model would never learn to stop.

    Args:
        ids_BT: inputs.
        targets_BT: the token after each, IGNORE where nothing is trained.
        end_ids: what may end a reply.
        full_targets: places of a row that was cut: at the last of them a reply may miss its end.
        where: names the batch.
    """
    check_any_trained(targets_BT, where)
    for row, (ids, targets) in enumerate(zip(ids_BT.tolist(), targets_BT.tolist())):
        for start, end in trained_spans(targets):
            if targets[end - 1] in end_ids or end >= full_targets:
                continue
            after = ids[end + 1] if end + 1 < len(ids) else None  # the reply's last token is the input at `end`
            hidden = "; the end token follows and is masked: were the labels made from the padding's id?" if after in end_ids else ""
            raise DataError(
                f"{where}, row {row}: the reply at tokens {start} to {end} is trained without a token that ends it (one of {sorted(end_ids)}){hidden}"
            )


def check_any_trained(targets_BT: Tensor, where: str) -> None:
    """Raise DataError for a batch in which nothing is trained."""
    if not (targets_BT != IGNORE).any():
        raise DataError(f"{where}: no token is trained, every target is masked; look at the chat template and at what counts as the reply.")


def trained_spans(targets: list[int]) -> Iterator[tuple[int, int]]:
    """Beginning and end (exclusive) of each run of trained positions."""
    start = None
    for place, target in enumerate([*targets, IGNORE]):
        if target != IGNORE and start is None:
            start = place
        elif target == IGNORE and start is not None:
            yield start, place
            start = None
