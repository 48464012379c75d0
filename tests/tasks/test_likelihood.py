"""Likelihoods of stretches: windows cover every id once, batches change nothing, encoding is lm-eval's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.errors import RequestError
from framework.generation import Generator
from framework.tasks.likelihood import Stretch, continuation, first_id, likelihoods, windows
from framework.tokenizers.byte import Byte


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 40))
def test_windows_score_every_id_but_the_first_once(num_ids: int, context_length: int, stride: int) -> None:
    stride = min(stride, context_length)
    scored: list[int] = []
    for number, window in enumerate(windows(range(num_ids), context_length, stride)):
        assert len(window.ids) <= context_length + 1
        assert list(window.ids) == list(range(window.ids[0], window.ids[-1] + 1))
        assert number == 0 or window.num_scored <= stride
        assert number == 0 or len(window.ids) == context_length + 1  # as much before it as there is room for
        scored += window.ids[-window.num_scored :]
    assert scored == list(range(1, num_ids))


def random_stretches(number: int, vocab_size: int) -> list[Stretch]:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 49, (number,), generator=draw).tolist()
    ids = [torch.randint(vocab_size, (length,), generator=draw).tolist() for length in lengths]
    return [Stretch(each, 1 + len(each) // 3) for each in ids]


def test_batched_is_alone(generator: Generator, their_nats: Callable[[Sequence[int]], torch.Tensor]) -> None:
    """TRAP-24, in float64 to rounding: whatever the batch, every stretch has its own score."""
    network = generator.engine.network.double()
    stretches = random_stretches(70, generator.vocab_size)
    alone = dict(likelihoods(network, stretches, batch_tokens=1))
    assert sorted(alone) == list(range(70))
    for batch_tokens in (60, 1000, 100_000):
        together = dict(likelihoods(network, stretches, batch_tokens))
        assert sorted(together) == list(range(70))
        assert max(abs(together[number].nats - alone[number].nats) for number in alone) < 1e-10
        assert [together[number].greedy for number in alone] == [alone[number].greedy for number in alone]
    for number, stretch in enumerate(stretches):
        assert alone[number].nats == pytest.approx(float(their_nats(stretch.ids)[-stretch.num_scored :].sum()), abs=2e-4)


def test_greedy_means_every_scored_id_is_the_likeliest(generator: Generator) -> None:
    ids = [1, 5, 9]
    for _ in range(4):
        hidden = generator.engine.network(torch.tensor([ids]))
        ids.append(int(generator.engine.network.logits(hidden)[0, -1].argmax()))
    wrong = [*ids[:-2], (ids[-2] + 1) % 256, ids[-1]]
    found = dict(likelihoods(generator.engine.network, [Stretch(ids, 4), Stretch(wrong, 4), Stretch(ids, 6)], 100))
    assert [found[number].greedy for number in range(2)] == [True, False]


def test_the_network_is_left_in_its_modes(generator: Generator) -> None:
    """TRAP-25: dropout off, and every module back in the mode it was in."""
    network = generator.engine.network.train()
    frozen = next(iter(network.children()))
    frozen.eval()
    before = {name: module.training for name, module in network.named_modules()}
    first, second = (dict(likelihoods(network, [Stretch([1, 2, 3], 2)], 10)) for _ in range(2))
    assert first == second
    assert {name: module.training for name, module in network.named_modules()} == before


def test_only_what_is_needed_is_read_ahead(generator: Generator) -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield Stretch([1, 2, 3, 4, 5], 2)

    next(likelihoods(generator.engine.network, endless(), batch_tokens=10))
    assert taken < 100


@pytest.mark.parametrize(
    ("context", "text", "ids"),
    [
        ("ab", "cd", [97, 98, 99, 100]),
        ("ab ", "cd", [97, 98, 32, 99, 100]),  # the space is scored with the text
        ("", "cd", [256, 99, 100]),
        (" ", "cd", [256, 32, 99, 100]),
    ],
)
def test_a_continuation(context: str, text: str, ids: list[int]) -> None:
    found = continuation(Byte(), context, text, 20)
    assert found == Stretch(ids, len(ids) - max(1, len(context.rstrip())), False)


def test_what_has_no_room_goes_first() -> None:
    assert continuation(Byte(), "abcdef", "gh", 4) == Stretch([100, 101, 102, 103, 104], 2, was_cut=True)
    assert continuation(Byte(), "ab", "cdefgh", 4) == Stretch([100, 101, 102, 103, 104], 4, was_cut=True)


def test_encoding_is_lm_eval_s(generator: Generator, theirs: tuple[Any, Any], sentences: Sequence[str]) -> None:
    """Together, cut where the context alone ends: written out with transformers' tokenizer."""
    tokenizer = theirs[1]
    for sentence in sentences:
        for cut in (3, 7, 12):
            context, text = sentence[:cut], sentence[cut:40]
            moved = len(context) - len(context.rstrip())
            context, text = context[: len(context) - moved], sentence[len(context) - moved : 40]
            before, whole = tokenizer.encode(context), tokenizer.encode(context + text)
            ours = continuation(generator.tokenizer, sentence[:cut], sentence[cut:40], 48)
            if whole[len(before) :]:
                assert (list(ours.ids), ours.num_scored) == ([*before, *whole[len(before) :]], len(whole) - len(before))


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(RequestError, match="no likelihood"):
        continuation(Byte(), "a", "", 4)


class WithBOS(Byte):
    """Bytes after a BOS, as Llama's tokenizers have it."""

    @property
    def bos_id(self) -> int:
        return 0


def test_a_text_follows_bos_where_there_is_one_and_else_eos() -> None:
    assert (first_id(WithBOS()), first_id(Byte())) == (0, Byte().eos_id)
    assert continuation(WithBOS(), "a", "b", 20) == Stretch([0, 97, 98], 1)
    assert continuation(WithBOS(), "", "b", 20) == Stretch([0, 98], 1)
