"""Laws of the batches: nobody can tell how many ranks, workers, processes or packs there are.

TRAP-10 packing is invisible; TRAP-11 every row once over ranks and workers; TRAP-12 validation over ranks equals one process's;
TRAP-13 the order is a function of (seed, index); L3 and L4 a resumed run reads what the uninterrupted one would have read.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from framework.batches.packed_text import PackedText
from framework.batches.types import IGNORE, TokenBatch
from framework.testing.datasets import Texts
from framework.tokenizers.byte import Byte


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMEWORK_CACHE", str(cache))


def packed(
    texts: list[str],
    rank: int = 0,
    world: int = 1,
    first_batch: int = 0,
    workers: int = 0,
    length: int = 16,
    rows: int = 3,
    mask: bool = False,
) -> PackedText:
    data = PackedText(Texts(texts), Byte(), length, rows, mask_documents=mask, seed=7, num_workers=workers)
    data.prepare_data()
    data.setup("fit")
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world)  # type: ignore[assignment]
    data.first_batch = first_batch
    return data


def corpus(count: int = 60) -> list[str]:
    draw = random.Random(count)
    return [f"{number} " + "word " * draw.randint(0, 12) for number in range(count)]


def train(data: PackedText, count: int) -> list[Tensor]:
    return [batch.ids_BT for batch in itertools.islice(data.train_dataloader(), count)]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_order_does_not_depend_on_ranks_or_workers(world: int, workers: int) -> None:
    alone = train(packed(corpus()), 12 * world)
    ranks = [train(packed(corpus(), rank, world, workers=workers), 12) for rank in range(world)]
    together = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_order_does_not_depend_on_workers(workers: int) -> None:
    alone, helped = train(packed(corpus()), 20), train(packed(corpus(), workers=workers), 20)
    assert all(torch.equal(one, other) for one, other in zip(alone, helped, strict=True))


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 2), (3, 0)])
def test_an_epoch_over_ranks_and_workers_is_every_window_once(world: int, workers: int) -> None:
    data = packed(corpus(80), length=8, rows=1)
    steps = data.num_windows // world
    seen = [
        tuple(batch.flatten().tolist())
        for rank in range(world)
        for batch in train(packed(corpus(80), rank, world, 0, workers, 8, 1), steps)
    ]
    alone = [tuple(batch.flatten().tolist()) for batch in train(data, steps * world)]
    assert sorted(seen) == sorted(alone)
    assert len(seen) > data.num_windows - world


@pytest.mark.parametrize("resumed_at", [0, 1, 2, 5, 11, 17])
def test_a_resumed_run_reads_what_the_uninterrupted_one_reads(resumed_at: int) -> None:
    whole = train(packed(corpus(), workers=2), 20)
    rest = train(packed(corpus(), first_batch=resumed_at, workers=1), 20 - resumed_at)
    assert all(torch.equal(one, other) for one, other in zip(whole[resumed_at:], rest, strict=True))


def test_a_resumed_run_may_have_another_world() -> None:
    alone = train(packed(corpus()), 16)
    ranks = [train(packed(corpus(), rank, 2, first_batch=6), 5) for rank in range(2)]
    together = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert all(torch.equal(one, other) for one, other in zip(alone[6:], together, strict=True))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("mask", [False, True])
def test_validation_over_ranks_is_every_token_once(world: int, mask: bool) -> None:
    """The sums a recipe divides (of losses, of tokens) are the same to the last token, whatever the world."""

    def trained(data: PackedText) -> tuple[list[tuple[int, int]], int]:
        batches = list(data.val_dataloader())
        return [
            pair
            for batch in batches
            for pair in zip(batch.ids_BT.flatten().tolist(), batch.targets_BT.flatten().tolist(), strict=True)
            if pair[1] != IGNORE
        ], len(batches)

    alone, _ = trained(packed(corpus(), mask=mask))
    ranks = [trained(packed(corpus(), rank, world, mask=mask)) for rank in range(world)]
    assert sorted(pair for pairs, _ in ranks for pair in pairs) == sorted(alone)
    assert len({count for _, count in ranks}) == 1  # no rank waits for another that has ended
    data = packed(corpus())
    borders = sum(shard.header.documents for shard in data.corpus.validation) - 1
    assert len(alone) == data.validation_tokens - 1 - (borders if mask else 0)


def test_validation_does_not_depend_on_the_batch_size() -> None:
    def targets(rows: int) -> list[int]:
        read = torch.cat([batch.targets_BT for batch in packed(corpus(), rows=rows).val_dataloader()]).flatten()
        return read[read != IGNORE].tolist()

    assert targets(1) == targets(7)


class Attention(torch.nn.Module):
    """One layer of attention in float64 that sees what documents_BT allows; positions enter by a table."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = torch.nn.Embedding(vocab_size, 8, dtype=torch.float64)
        self.positions = torch.nn.Embedding(64, 8, dtype=torch.float64)
        self.head = torch.nn.Linear(8, vocab_size, dtype=torch.float64)

    def loss_sum(self, batch: TokenBatch) -> Tensor:
        rows, length = batch.ids_BT.shape
        positions = torch.arange(length).expand(rows, length) if batch.positions_BT is None else batch.positions_BT
        x = self.tokens(batch.ids_BT) + self.positions(positions)
        allowed = torch.ones(length, length, dtype=torch.bool).tril().expand(rows, length, length)
        if batch.documents_BT is not None:
            allowed = allowed & (batch.documents_BT[:, :, None] == batch.documents_BT[:, None, :])
        scores = (x @ x.transpose(1, 2)).masked_fill(~allowed, -torch.inf)
        logits = self.head(scores.softmax(-1) @ x)
        return cross_entropy(logits.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORE, reduction="sum")


def separate(batch: TokenBatch, eos: int) -> list[TokenBatch]:
    """The parts of documents in a batch, each a row of its own: cut after every EOS, with no look at documents_BT."""
    pieces = []
    for ids in batch.ids_BT.tolist():
        piece: list[int] = []
        for token in [*ids, None]:
            if token is not None:
                piece.append(token)
            if piece and (token is None or token == eos):
                pieces.append(piece)
                piece = []
    return [TokenBatch(torch.tensor([piece[:-1]]), torch.tensor([piece[1:]])) for piece in pieces if len(piece) > 1]


def test_packing_is_invisible_with_masked_documents() -> None:
    tokenizer = Byte()
    data = packed(corpus(), length=48, rows=4, mask=True)
    for batch in itertools.islice(data.train_dataloader(), 3):
        network = Attention(tokenizer.vocab_size)
        # the last input's target lies outside the row: leave it out, since the separate pieces do not have it
        targets_BT = batch.targets_BT.clone()
        targets_BT[:, -1] = IGNORE
        packed_loss = network.loss_sum(batch._replace(targets_BT=targets_BT))
        packed_loss.backward()
        gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
        network.zero_grad()
        pieces = separate(batch, tokenizer.eos_id)
        assert len(pieces) > 4
        alone = torch.stack([network.loss_sum(piece) for piece in pieces]).sum()
        alone.backward()
        assert abs(packed_loss.item() - alone.item()) <= 1e-12 * alone.item()
        for gradient, parameter in zip(gradients, network.parameters(), strict=True):
            assert parameter.grad is not None
            assert (gradient - parameter.grad).abs().max() <= 1e-12


def test_a_document_does_not_see_another_one() -> None:
    batch = next(iter(packed(corpus(), length=48, rows=4, mask=True).train_dataloader()))
    assert batch.documents_BT is not None
    network, first = Attention(Byte().vocab_size), batch.documents_BT == 0
    changed = batch._replace(ids_BT=torch.where(first, (batch.ids_BT + 1) % 256, batch.ids_BT))
    others = torch.where(first, IGNORE, batch.targets_BT)
    assert (others != IGNORE).any()
    assert network.loss_sum(batch._replace(targets_BT=others)) == network.loss_sum(changed._replace(targets_BT=others))


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text(min_size=1, max_size=30), min_size=2, max_size=12),
    length=st.integers(1, 12),
    rows=st.integers(1, 5),
    mask=st.booleans(),
)
def test_every_row_is_a_piece_of_the_stream(texts: list[str], length: int, rows: int, mask: bool) -> None:
    tokenizer = Byte()
    data = PackedText(Texts(texts), tokenizer, length, rows, validation_fraction=0, mask_documents=mask)
    ring = [token for text in texts for token in tokenizer.encode_document(text)]
    if len(ring) <= length:
        return
    data.prepare_data()
    data.setup("fit")
    twice = bytes(str(ring + ring), "ascii")
    for batch in itertools.islice(data.train_dataloader(), 5):
        for ids, targets in zip(batch.ids_BT.tolist(), batch.targets_BT.tolist(), strict=True):
            assert str(ids).strip("[]").encode() in twice
            ended = [token == tokenizer.eos_id for token in ids]
            for place, target in enumerate(targets):
                if mask and ended[place]:
                    assert target == IGNORE
                elif place + 1 < length:
                    assert target == ids[place + 1]
                else:
                    assert 0 <= target < tokenizer.vocab_size
