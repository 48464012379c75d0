"""How likely a network finds stretches of ids: batched by length through its ordinary forward, one number a stretch.

Shape legend: B stretches, T time, D model width, N scored tokens of a batch, V vocabulary.
Ids flow in, log-likelihoods flow out. Must not know text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch

from framework.engine.runner import evaluating
from framework.errors import RequestError
from framework.losses import token_statistics
from framework.networks.base import Network
from framework.tokenizers.base import Tokenizer

READ_AHEAD = 32  # batches: among so many, stretches are sorted by length


class Stretch(NamedTuple):
    """Ids of which the last are scored, each given all before it.

    Attributes:
        ids: at most one more than the network's context, since the last is only predicted.
        num_scored: at least 1, and less than there are ids.
        was_cut: whether ids before these were left out, for want of room.
    """

    ids: Sequence[int]
    num_scored: int
    was_cut: bool = False


class Score(NamedTuple):
    """What the network says of a stretch.

    Attributes:
        nats: summed -log p of its scored ids.
        greedy: whether each of them was the likeliest.
    """

    nats: float
    greedy: bool


def likelihoods(network: Network, stretches: Iterable[Stretch], batch_tokens: int) -> Iterator[tuple[int, Score]]:
    """(number of the stretch, its score), as they are computed: longer ones first among those that are read ahead.

    Rows of a batch are padded on the right, where a causal network does not look: a score is the same in any company, up to rounding.

    Args:
        network: in evaluation mode meanwhile, each of its modules back in its own afterwards.
        stretches: taken as needed, so that they need not fit into memory together.
        batch_tokens: most ids of a batch, padding included; a longer stretch is a batch of its own.
    """
    for batch in _batches(stretches, batch_tokens):
        yield from zip([number for number, _ in batch], _scores(network, [stretch for _, stretch in batch]), strict=True)


def windows(ids: Sequence[int], context_length: int, stride: int) -> Iterator[Stretch]:
    """Stretches of a long text in which every id but the first is scored once, after as many ids as there is room for.

    The first window is full; each further one scores the next `stride` ids, the last one what is left. With stride = context_length
    these are lm-eval's rolling windows.
    """
    assert 0 < stride <= context_length
    done, end = 0, min(len(ids) - 1, context_length)
    while done < end:
        yield Stretch(ids[max(0, end - context_length) : end + 1], end - done)
        done, end = end, min(len(ids) - 1, end + stride)


def first_id(tokenizer: Tokenizer) -> int:
    """The id that a text follows: BOS, or without one the EOS that documents follow in training."""
    return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id


def continuation(tokenizer: Tokenizer, context: str, text: str, context_length: int) -> Stretch:
    """A text scored after a context, encoded as lm-eval does it, so that figures compare.

    Both are encoded together and cut where the context alone would end; white space at the context's end goes to the text. What there
    is no room for is left out at the beginning.

    Raises:
        RequestError: the text has no tokens.
    """
    bare = context.rstrip()
    context, text = bare, context[len(bare) :] + text
    before = tokenizer.encode_prompt(context) if context else [first_id(tokenizer)]
    scored = tokenizer.encode_prompt(context + text)[len(before) :] if context else tokenizer.encode(text)
    scored = scored or tokenizer.encode(text)  # together they may be one token
    if not scored:
        raise RequestError("an empty text has no likelihood")
    ids = [*before, *scored][-(context_length + 1) :]
    return Stretch(ids, min(len(scored), len(ids) - 1), was_cut=len(ids) < len(before) + len(scored))


def _batches(stretches: Iterable[Stretch], batch_tokens: int) -> Iterator[list[tuple[int, Stretch]]]:
    numbered = enumerate(stretches)
    for first in numbered:
        ahead, num_tokens = [first], len(first[1].ids)
        while num_tokens < READ_AHEAD * batch_tokens and (item := next(numbered, None)) is not None:
            ahead.append(item)
            num_tokens += len(item[1].ids)
        ahead.sort(key=lambda item: len(item[1].ids), reverse=True)
        while ahead:
            size = max(1, batch_tokens // len(ahead[0][1].ids))
            yield ahead[:size]
            del ahead[:size]


@torch.inference_mode()
def _scores(network: Network, stretches: Sequence[Stretch]) -> list[Score]:
    device = next(chain(network.parameters(), network.buffers())).device
    longest = max(len(stretch.ids) for stretch in stretches)
    ids_BT = torch.tensor([[*stretch.ids, *[0] * (longest - len(stretch.ids))] for stretch in stretches], device=device)
    ends_B1 = torch.tensor([[len(stretch.ids) - 1] for stretch in stretches], device=device)
    counts = [stretch.num_scored for stretch in stretches]
    place_T = torch.arange(longest - 1, device=device)
    scored_BT = (place_T < ends_B1) & (place_T >= ends_B1 - torch.tensor(counts, device=device)[:, None])
    with evaluating(network):
        hidden_BTD = network(ids_BT[:, :-1])
        rows_ND, softcap = hidden_BTD[scored_BT], network.logit_softcap
        nats_N, greedy_N = token_statistics(rows_ND, network.head_weight_VD, ids_BT[:, 1:][scored_BT], softcap=softcap)
    sums = [part.sum() for part in torch.split(nats_N.double(), counts)]
    all_greedy = [part.all() for part in torch.split(greedy_N, counts)]
    return [Score(nats, greedy) for nats, greedy in zip(torch.stack(sums).tolist(), torch.stack(all_greedy).tolist(), strict=True)]
