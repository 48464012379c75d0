"""The exact tokens of batches as a person can look at them: text, what is trained, positions, documents.

Batches and a tokenizer flow in, plain rows flow out, which `terminal` and `page` draw. Must not know how they are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from framework.batches.types import IGNORE, PairBatch, TokenBatch
from framework.tokenizers.base import Tokenizer


class Token(NamedTuple):
    """One token of a row.

    Attributes:
        token_id: its id.
        text: what it stands for; bytes that are no text as \\xNN.
        special: whether it is a special token.
        trained: whether the network is trained to write it here.
        padding: whether it only fills the row.
        position: its position in its document.
        document: the document's number in the row.
    """

    token_id: int
    text: str
    special: bool
    trained: bool
    padding: bool
    position: int
    document: int


class ShownRow(NamedTuple):
    """A row of a batch.

    Attributes:
        title: what it is.
        tokens: in order.
    """

    title: str
    tokens: list[Token]

    @property
    def summary(self) -> str:
        """Counts."""
        real = [token for token in self.tokens if not token.padding]
        documents = len({token.document for token in real})
        trained = sum(token.trained for token in self.tokens)
        several = f", {documents} documents" if documents > 1 else ""
        return f"{self.title}: {len(real)} tokens{several}, {trained} trained, {len(self.tokens) - len(real)} padding"


def shown_rows(batch: Any, tokenizer: Tokenizer) -> Iterator[ShownRow]:
    """The rows of a TokenBatch or a PairBatch. Raises TypeError for another kind of batch."""
    if isinstance(batch, PairBatch):
        pairs = len(batch.margins_B)
        for row in range(2 * pairs):
            title = f"pair {row % pairs} {'chosen' if row < pairs else 'rejected'}"
            length = int(batch.lengths_R[row])
            # of a pair the last token is an input too: the reward model reads its score there
            ids, targets = batch.ids_RT[row].tolist(), [IGNORE, *batch.targets_RT[row].tolist()][: len(batch.ids_RT[row])]
            yield _row(title, ids, targets, list(range(len(ids))), [0] * length + [-1] * (len(ids) - length), tokenizer)
        return
    if not isinstance(batch, TokenBatch):
        raise TypeError(f"{type(batch).__name__} has no tokens to show")
    for row in range(len(batch.ids_BT)):
        ids, targets = batch.ids_BT[row].tolist(), batch.targets_BT[row].tolist()
        positions = list(range(len(ids))) if batch.positions_BT is None else batch.positions_BT[row].tolist()
        documents = _documents(batch, row, ids, targets, tokenizer)
        yield _row(f"row {row}", *_inputs_and_targets(ids, targets, positions, documents), tokenizer)


def prompt_row(title: str, ids: list[int], tokenizer: Tokenizer) -> ShownRow:
    """A prompt, of which nothing is trained: what is, the policy writes."""
    return _row(title, ids, [IGNORE] * len(ids), list(range(len(ids))), [0] * len(ids), tokenizer)


def _documents(batch: TokenBatch, row: int, ids: list[int], targets: list[int], tokenizer: Tokenizer) -> list[int]:
    """Numbers of the documents; -1 for padding, which without numbers is what stands after the last trained position and is the padding's id."""
    if batch.documents_BT is not None:
        return [int(number) for number in batch.documents_BT[row]]
    end = len(ids)
    while end and ids[end - 1] == tokenizer.pad_id and targets[end - 1] == IGNORE:
        end -= 1
    return [0] * end + [-1] * (len(ids) - end)


def _inputs_and_targets(
    ids: list[int], targets: list[int], positions: list[int], documents: list[int]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Every token once, with whether it is a target: inputs moved against their targets, and each document's last target, no input, put in."""
    shown: tuple[list[int], list[int], list[int], list[int]] = ([], [], [], [])

    def put(token: int, target: int, position: int, document: int) -> None:
        for column, value in zip(shown, (token, target, position, document)):
            column.append(value)

    before = IGNORE
    for place, (token, document) in enumerate(zip(ids, documents)):
        begins = place == 0 or document != documents[place - 1]
        put(token, IGNORE if begins else before, positions[place], document)
        before = targets[place]
        last = place + 1 == len(ids) or documents[place + 1] != document
        if last and before != IGNORE and document >= 0:
            put(before, before, positions[place] + 1, document)
    return shown


def _row(title: str, ids: list[int], targets: list[int], positions: list[int], documents: list[int], tokenizer: Tokenizer) -> ShownRow:
    special = frozenset(tokenizer.special_tokens.values())
    tokens = [
        Token(token, token_text(tokenizer, token), token in special, target != IGNORE and document >= 0, document < 0, position, document)
        for token, target, position, document in zip(ids, targets, positions, documents)
    ]
    return ShownRow(title, tokens)


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """What an id stands for; bytes that are no text by themselves as \\xNN."""
    return tokenizer.token_bytes(token_id).decode("utf-8", errors="backslashreplace")
