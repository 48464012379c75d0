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
    cases = {
        "random": _logits_BV(),
        "equal": torch.zeros(ROWS, VOCAB_SIZE),
        "huge": 1e4 * _logits_BV(),
        "all but one excluded": one_left_BV,
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
        alone = sampler(logits_BV[row : row + 1], History(history.tokens_BL[row : row + 1], history.prompt_lengths_B[row : row + 1]))
        assert torch.allclose(alone.softmax(dim=-1)[0], together[row], rtol=0, atol=1e-12), (
            f"row {row} alone differs from row {row} in a batch"
        )


def check_padding_is_invisible(sampler: Sampler) -> None:
    """More padding (-1) behind the histories changes nothing."""
    logits_BV = _logits_BV()
    assert torch.equal(sampler(logits_BV, _history()), sampler(logits_BV, _history(padding=5))), (
        "padding of the histories changes the result"
    )


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
    check_padding_is_invisible,
    check_is_deterministic,
)
