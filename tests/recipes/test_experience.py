"""Replies as training data: parts of them lose padding alone, places are those that predict, every epoch visits each reply once."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from framework.recipes.experience import Experience, Rollouts, Schedule

STARTS, LENGTHS = [3, 5, 2, 4], [2, 1, 4, 0]  # the last reply could not be judged


def experience() -> Experience:
    ids = torch.arange(4 * 9).view(4, 9)
    mask = torch.arange(4)[None] < torch.tensor(LENGTHS)[:, None]
    fields = [torch.randn(4, 4) for _ in range(6)]
    return Experience(ids, torch.tensor(STARTS), mask, *fields)


def test_lengths_count_to_the_last_trained_token() -> None:
    whole = experience()
    assert whole.reply_lengths().tolist() == LENGTHS
    holes = whole._replace(mask_SR=torch.tensor([[False, True, False, False]] * 4))
    assert holes.reply_lengths().tolist() == [2] * 4


def test_a_selection_loses_padding_alone() -> None:
    whole = experience()
    part = whole.select([1, 0])
    assert part.ids_ST.shape == (2, 6) and part.mask_SR.shape == (2, 2)
    assert part.ids_ST[1, :5].tolist() == whole.ids_ST[0, :5].tolist() and part.starts_S.tolist() == [5, 3]
    assert torch.equal(part.log_probs_SR, whole.log_probs_SR[[1, 0], :2])
    assert part.targets_N.tolist() == [*whole.ids_ST[1, 5:6].tolist(), *whole.ids_ST[0, 3:5].tolist()]
    nothing = whole.select([3])
    assert nothing.ids_ST.shape[1] >= 2 and nothing.mask_SR.shape == (1, 1) and len(nothing.targets_N) == 0


def test_places_are_those_before_their_tokens() -> None:
    """A reply's first token is predicted at the prompt's last (TRAP-54)."""
    whole = experience()
    rows, places = whole.places()
    expected = [(row, STARTS[row] + place - 1) for row in range(4) for place in range(LENGTHS[row])]
    assert list(zip(rows.tolist(), places.tolist(), strict=True)) == expected
    assert whole.targets_N.tolist() == [whole.ids_ST[row, place + 1].item() for row, place in expected]


def test_what_is_spread_stands_at_its_tokens() -> None:
    whole = experience()
    values = torch.arange(1.0, 8.0, dtype=torch.float64)
    spread = whole.spread(values)
    assert spread.dtype == torch.float64 and torch.equal(spread[whole.mask_SR], values) and not spread[~whole.mask_SR].any()


@pytest.mark.parametrize("first", [0, 1, 5, 6, 13])
def test_rollouts_go_on_from_any_micro_batch(first: int) -> None:
    """Micro-batch n is the same wherever a run began, and asks for no rollout but its own."""
    schedule, rollouts = Schedule(seed=1, replies=4, batch_size=2, epochs=3), {number: experience() for number in range(5)}
    asked: list[int] = []

    def write(number: int) -> Experience:
        asked.append(number)
        return rollouts[number]

    whole = list(islice(iter(Rollouts(schedule, 0, rollouts.__getitem__)), 20))
    later = list(islice(iter(Rollouts(schedule, first, write)), 20 - first))
    for one, other in zip(whole[first:], later, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert asked == [number // 6 for number in range(first, 20)]
    assert len(Rollouts(schedule, 0, write)) > 10**9
