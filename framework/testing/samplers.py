"""What every sampler must do. Checks take an instance; the weaker its settings, the less they see.

Shape legend: B requests, V vocabulary, L longest token history. Must not know any particular sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from framework.samplers.base import History, Sampler

ROWS, VOCAB_SIZE = 4, 50


def _logits_BV(dtype: torch.dtype = torch.float32) -> Tensor:
    return 3.0 * torch.randn(ROWS, VOCAB_SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def _history(padding: int = 0) -> History:
    """Histories of 3 to 6 tokens, and further padding."""
    generator = torch.Generator().manual_seed(1)
    tokens_BL = torch.randint(VOCAB_SIZE, (ROWS, 6), generator=generator)
    lengths_B = torch.arange(3, 3 + ROWS)
    tokens_BL[torch.arange(6) >= lengths_B[:, None]] = -1
    return History(torch.cat([tokens_BL, torch.full((ROWS, padding), -1)], dim=1), torch.tensor([1, 2, 3, 4]))


def _row(history: History, row: int) -> History:
    return History(history.tokens_BL[row : row + 1], history.prompt_lengths_B[row : row + 1])


def check_keeps_shape_type_and_input(sampler: Sampler) -> None:
    """The result has the shape and type of the logits, which are left as they were; so is the history."""
    for dtype in (torch.float32, torch.float64):
        logits_BV, history = _logits_BV(dtype), _history()
        result = sampler(logits_BV, history)
        assert result.shape == logits_BV.shape and result.dtype == dtype, f"{dtype} [4, 50] became {result.dtype} {list(result.shape)}"
        assert torch.equal(logits_BV, _logits_BV(dtype)), "the logits were modified in place"
        assert torch.equal(history.tokens_BL, _history().tokens_BL), "the history was modified in place"


def check_leaves_a_token(sampler: Sampler) -> None:
    """Every row keeps a finite logit and has no NaN: for random, equal, extreme and almost fully excluded logits."""
    one_left_BV = torch.full((ROWS, VOCAB_SIZE), -math.inf)
    one_left_BV[:, 7] = -3.0
    seen_left_BV = torch.full((ROWS, VOCAB_SIZE), -math.inf)
    seen_left_BV.scatter_(-1, _history().tokens_BL[:, -4:].clamp(min=0), 1.0)
    cases = {
        "random": _logits_BV(),
        "equal": torch.zeros(ROWS, VOCAB_SIZE),
        "huge": 1e4 * _logits_BV(),
        "all but one excluded": one_left_BV,
        "all but the last tokens excluded": seen_left_BV,
    }
    for name, logits_BV in cases.items():
        result = sampler(logits_BV, _history())
        assert not result.isnan().any(), f"{name} logits became NaN"
        assert result.isfinite().any(dim=-1).all(), f"{name} logits: no token is left"
        assert not (result == math.inf).any(), f"{name} logits became infinite"


def check_revives_nothing(sampler: Sampler) -> None:
    """A token that an earlier sampler excluded stays excluded."""
    logits_BV = _logits_BV()
    logits_BV[:, ::3] = -math.inf
    assert (sampler(logits_BV, _history())[:, ::3] == -math.inf).all(), "an excluded token (-inf) came back"


def check_rows_are_independent(sampler: Sampler) -> None:
    """A request's distribution does not depend on its neighbours."""
    logits_BV, history = _logits_BV(torch.float64), _history()
    together = sampler(logits_BV, history).softmax(dim=-1)
    for row in range(ROWS):
        alone = sampler(logits_BV[row : row + 1], _row(history, row))
        assert torch.allclose(alone.softmax(dim=-1)[0], together[row], rtol=0, atol=1e-12), (
            f"row {row} alone differs from row {row} in a batch"
        )


def check_runs_together(sampler: Sampler) -> None:
    """What `together` makes of several, if it makes anything, treats each row as one of them alone would, to the bit."""
    for rows in (1, ROWS):
        together = type(sampler).together([sampler] * rows)
        if together is None:
            return
        assert isinstance(together, Sampler), f"together gave {type(together).__name__}, which is no Sampler"
        for dtype in (torch.float32, torch.float64):
            logits_BV, (tokens_BL, prompt_lengths_B) = _logits_BV(dtype)[:rows], _history()
            result = together(logits_BV, History(tokens_BL[:rows], prompt_lengths_B[:rows]))
            for row in range(rows):
                alone = sampler(logits_BV[row : row + 1], _row(_history(), row))
                assert torch.equal(alone[0], result[row]), f"row {row} of {rows} together differs from the same sampler alone"


def check_padding_is_invisible(sampler: Sampler) -> None:
    """More padding (-1) behind the histories changes nothing."""
    logits_BV = _logits_BV()
    assert torch.equal(sampler(logits_BV, _history()), sampler(logits_BV, _history(padding=5))), (
        "padding of the histories changes the result"
    )


def check_looks_where_it_says(sampler: Sampler) -> None:
    """Without `looks_back` an empty history does as well; without `needs_vocabulary` too, excluded tokens may be left out or not."""
    if sampler.looks_back:
        return
    logits_BV = _logits_BV(torch.float64)
    logits_BV[:, ::3] = -math.inf
    no_history = History(torch.empty(ROWS, 0, dtype=torch.long), torch.zeros(ROWS, dtype=torch.long))
    result = sampler(logits_BV, _history())
    assert torch.equal(result, sampler(logits_BV, no_history)), "looks_back is false, but the history changes the result"
    if sampler.needs_vocabulary:
        return
    some_excluded = torch.arange(VOCAB_SIZE) % 6 != 0
    candidates = sampler(logits_BV[:, some_excluded], no_history).softmax(dim=-1)
    assert torch.allclose(candidates, result.softmax(dim=-1)[:, some_excluded], rtol=0, atol=1e-12), (
        "columns of excluded tokens change the result: make needs_vocabulary true, or do without them"
    )


def check_says_what_it_does(sampler: Sampler) -> None:
    """`changes_nothing` returns the very logits, and `is_greedy` leaves the best token alone, the lowest id where several tie."""
    tied_BV = _logits_BV().round()
    for logits_BV in (_logits_BV(), tied_BV):
        result = sampler(logits_BV, _history())
        assert result is logits_BV or not sampler.changes_nothing, "changes_nothing is true, but other logits are returned"
        if sampler.is_greedy:
            best = torch.nn.functional.one_hot(logits_BV.argmax(dim=-1), VOCAB_SIZE).bool()
            assert torch.equal(result.isfinite(), best), "is_greedy is true, but other tokens than the best one are left"


def check_is_deterministic(sampler: Sampler) -> None:
    """The same input gives the same result, and no random number is taken: drawing is the engine's."""
    state = torch.get_rng_state()
    first, second = (sampler(_logits_BV(), _history()) for _ in range(2))
    assert torch.equal(first, second), "two calls with the same input differ"
    assert torch.equal(state, torch.get_rng_state()), "the global random generator was used"


CHECKS: tuple[Callable[[Sampler], None], ...] = (
    check_keeps_shape_type_and_input,
    check_leaves_a_token,
    check_revives_nothing,
    check_rows_are_independent,
    check_runs_together,
    check_padding_is_invisible,
    check_looks_where_it_says,
    check_says_what_it_does,
    check_is_deterministic,
)
