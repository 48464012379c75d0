"""Rows of text as a network learns from them: every position asked at once (teacher forcing), and the same text written by itself.

A recipe and a batch of tokens flow in, plain values flow out. Must not know how they are shown.

Shape legend: B rows, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from framework.batches.types import IGNORE, TokenBatch
from framework.engine.engine import Engine
from framework.engine.request import Request
from framework.inspection.tokens import token_text
from framework.losses.next_token import wide_type
from framework.recipes.recipe import Recipe
from framework.samplers import Temperature
from framework.tokenizers.base import Tokenizer

CONTEXT_TOKENS = 12  # shown before a target
FREE_TOKENS = 48  # that the model goes on with by itself at most


@dataclass(frozen=True)
class Guess:
    """What was asked at one position, all of them in one forward pass.

    Attributes:
        position: in the row.
        context: the last tokens before the target, as text.
        target: the token that comes next in the data.
        trained: whether the loss counts it; the prompt of a demonstration is read and not trained.
        probability: that the network gave to the target.
        loss: -log of it, nats.
        likeliest: the token that it held likeliest.
        likeliest_probability: of that.
    """

    position: int
    context: str
    target: str
    trained: bool
    probability: float
    loss: float
    likeliest: str
    likeliest_probability: float


@dataclass(frozen=True)
class FreeRun:
    """The same text, not given but written: the network goes on by itself, always with the likeliest token.

    Attributes:
        prefix: what it was given.
        data: tokens that the data goes on with.
        own: tokens that the network goes on with.
        parted_at: the first place where they differ; None: nowhere.
    """

    prefix: str
    data: list[str]
    own: list[str]
    parted_at: int | None


@dataclass(frozen=True)
class TokenRow:
    """A row of text: teacher forcing, and free running beside it.

    Attributes:
        row: its number in the micro-batch.
        guesses: at every position up to the last that is trained.
        loss: the sum over trained positions, nats.
        free: None for a row that leaves nothing to write.
    """

    row: int
    guesses: list[Guess]
    loss: float
    free: FreeRun | None


def token_rows(recipe: Recipe, batch: TokenBatch, rows: int, repeat: Callable[[], None]) -> tuple[list[TokenRow], list[float]]:
    """The first rows, and the summed loss of every row; arguments as of `batch_table`."""
    tokenizer, network = recipe.data.tokenizer, recipe.network
    repeat()
    with recipe.precision():
        hidden_BTD = network(batch.ids_BT, batch.positions_BT, batch.documents_BT).detach()
        losses, shown = [], []
        for row, hidden_TD in enumerate(hidden_BTD):
            with torch.no_grad():
                logits_TV = network.logits(hidden_TD)
            log_probs_TV = torch.log_softmax(logits_TV, -1, dtype=wide_type(logits_TV.dtype))
            losses.append(_row_loss(log_probs_TV, batch.targets_BT[row]))
            if row < rows and (batch.targets_BT[row] != IGNORE).any():
                guesses = _guesses(log_probs_TV, batch, row, tokenizer)
                shown.append((row, guesses, losses[-1]))
    return [TokenRow(row, guesses, loss, _free_run(recipe, batch, row)) for row, guesses, loss in shown], losses


def _row_loss(log_probs_TV: Tensor, targets_T: Tensor) -> float:
    places_T = targets_T != IGNORE
    return -log_probs_TV[places_T].gather(1, targets_T[places_T, None]).double().sum().item()


def _guesses(log_probs_TV: Tensor, batch: TokenBatch, row: int, tokenizer: Tokenizer) -> list[Guess]:
    ids, targets = batch.ids_BT[row].tolist(), batch.targets_BT[row].tolist()
    begins = _begins(batch, row)
    guesses = []
    for place in range(_last_trained(targets) + 1):
        trained = targets[place] != IGNORE
        if not trained and begins[place + 1] == place + 1:
            continue  # the next token is another document's
        target = targets[place] if trained else ids[place + 1]
        likeliest = int(log_probs_TV[place].argmax())
        loss = -log_probs_TV[place, target].item()
        context = ids[max(begins[place], place + 1 - CONTEXT_TOKENS) : place + 1]
        guesses.append(
            Guess(
                position=place,
                context=text_of(tokenizer, context),
                target=token_text(tokenizer, target),
                trained=trained,
                probability=log_probs_TV[place, target].exp().item(),
                loss=loss,
                likeliest=token_text(tokenizer, likeliest),
                likeliest_probability=log_probs_TV[place, likeliest].exp().item(),
            )
        )
    return guesses


def _begins(batch: TokenBatch, row: int) -> list[int]:
    """For each place of a row, where its document begins."""
    documents = [0] * batch.ids_BT.shape[1] if batch.documents_BT is None else batch.documents_BT[row].tolist()
    begins: list[int] = []
    for place, document in enumerate(documents):
        begins.append(begins[-1] if place and document == documents[place - 1] else place)
    return begins


def _last_trained(targets: Sequence[int]) -> int:
    return max(place for place, target in enumerate(targets) if target != IGNORE)


def _free_run(recipe: Recipe, batch: TokenBatch, row: int) -> FreeRun | None:
    """From the prompt of a row's first document, or from a quarter of its text where nothing is a prompt."""
    begins = _begins(batch, row)
    end = begins.count(0)
    ids, targets = batch.ids_BT[row, :end].tolist(), batch.targets_BT[row, :end].tolist()
    trained = [place for place, target in enumerate(targets) if target != IGNORE]
    if not trained:
        return None
    start = trained[0] + 1 if trained[0] else max(1, len(trained) // 4)
    wanted = list(itertools.takewhile(lambda target: target != IGNORE, targets[start - 1 :]))[:FREE_TOKENS]
    num_tokens = min(len(wanted), recipe.network.context_length - start)
    if num_tokens < 1:
        return None
    engine = Engine(recipe.network, max_running=1, prefix_cache=False)
    request = Request(prompt_ids=ids[:start], max_new_tokens=num_tokens, samplers=[Temperature(0.0)])
    own = [event.token_id for event in engine.stream(request)]
    parted = next((place for place, (one, other) in enumerate(zip(own, wanted)) if one != other), None)
    tokenizer = recipe.data.tokenizer
    data_texts, own_texts = ([token_text(tokenizer, token) for token in tokens] for tokens in (wanted[:num_tokens], own))
    return FreeRun(text_of(tokenizer, ids[:start]), data_texts, own_texts, parted)


def text_of(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """What ids stand for together; bytes that are no text as \\xNN."""
    return b"".join(map(tokenizer.token_bytes, ids)).decode("utf-8", errors="backslashreplace")
