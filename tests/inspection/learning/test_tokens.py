"""The teacher-forcing table and free running, position by position."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from looking import Look, looked_at  # type: ignore[import-not-found]

from framework.batches.types import IGNORE
from framework.inspection.learning.tokens import text_of
from framework.tokenizers.byte import Byte


@pytest.fixture(params=["documents cut apart", "one stream"])
def look(small_run: Any, request: pytest.FixtureRequest) -> Look:
    return looked_at(small_run(batch_size=6, data_arguments={"mask_documents": request.param == "documents cut apart"}), Look(4, rows=6))


def test_every_position_has_its_probability_loss_and_likeliest_token(look: Look) -> None:
    batch, tokenizer = look.batches[0], Byte()
    wide = look.before.double()
    log_probs_BTV = wide.logits(wide(batch.ids_BT, batch.positions_BT, batch.documents_BT)).log_softmax(-1)
    for row in look.learning.batch.rows:
        targets = batch.targets_BT[row.row].tolist()
        trained = [guess for guess in row.guesses if guess.trained]
        assert [guess.position for guess in trained] == [place for place, target in enumerate(targets) if target != IGNORE]
        for guess in trained:
            log_probs_V = log_probs_BTV[row.row, guess.position]
            target = targets[guess.position]
            assert guess.target == tokenizer.decode([target])
            assert guess.loss == pytest.approx(-log_probs_V[target].item(), rel=1e-4)
            assert guess.probability == pytest.approx(math.exp(-guess.loss), rel=1e-6)
            best = int(log_probs_V.argmax())
            assert guess.likeliest == tokenizer.decode([best])
            assert guess.likeliest_probability == pytest.approx(log_probs_V[best].exp().item(), rel=1e-4)
        assert row.loss == pytest.approx(sum(guess.loss for guess in trained), rel=1e-6)


def test_the_table_adds_up_to_the_recipe_s_loss(look: Look) -> None:
    table = look.learning.batch
    assert table.shown == table.of == len(table.row_losses) == 6
    assert sum(table.row_losses) == pytest.approx(table.total, rel=1e-6)
    assert table.total / table.num_items == pytest.approx(look.learning.summary.loss, rel=1e-7)
    assert [row.loss for row in table.rows] == table.row_losses


def test_a_context_is_what_stands_before_in_its_document(look: Look) -> None:
    batch, tokenizer = look.batches[0], Byte()
    for row in look.learning.batch.rows:
        ids = batch.ids_BT[row.row].tolist()
        documents = [0] * len(ids) if batch.documents_BT is None else batch.documents_BT[row.row].tolist()
        for guess in row.guesses:
            own = [token for token, document in zip(ids[: guess.position + 1], documents) if document == documents[guess.position]]
            assert tokenizer.decode(own).endswith(guess.context) and guess.context.endswith(tokenizer.decode(own[-1:]))


def test_free_running_is_greedy_and_parts_where_it_says(look: Look) -> None:
    batch, tokenizer = look.batches[0], Byte()
    parted = 0
    for row in look.learning.batch.rows:
        run = row.free
        if run is None:
            continue
        ids = list(tokenizer.encode(run.prefix))
        assert ids == batch.ids_BT[row.row, : len(ids)].tolist()
        wanted = batch.targets_BT[row.row, len(ids) - 1 :][: len(run.data)].tolist()
        assert run.data == [tokenizer.decode([token]) for token in wanted]
        own = list(ids)
        for _ in run.own:
            own.append(int(look.before.float().logits(look.before.float()(torch.tensor([own])))[0, -1].argmax()))
        assert run.own == [tokenizer.decode([token]) for token in own[len(ids) :]]
        differ = [place for place, (one, other) in enumerate(zip(run.own, run.data)) if one != other]
        assert run.parted_at == (differ[0] if differ else None)
        parted += bool(differ)
        likeliest = {guess.position: guess.likeliest for guess in row.guesses}
        for place in range(len(run.own) if run.parted_at is None else run.parted_at + 1):  # until then both read the same
            assert run.own[place] == likeliest[len(ids) - 1 + place]
    assert parted


def test_bytes_that_are_no_text_are_spelled_out() -> None:
    assert text_of(Byte(), [0xC3, 0xA4, 0xC3]) == "ä\\xc3"
