"""New ids begin as the mean and leave the old ones alone, to the bit; longer contexts are what transformers computes (TRAP-31)."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from framework.kernels import calls
from framework.networks.linear import linear
from framework.networks.resize import add_ids, lengthen
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer

VOCAB_SIZE, CONTEXT_LENGTH = 61, 32
LLAMA: dict[str, Any] = {"feedforward": "swiglu", "norm": "rms", "positions": "rotary"}


def network(tied: bool = True, multiple: int = 1, dtype: torch.dtype = torch.float32, **changes: Any) -> Transformer:
    torch.manual_seed(0)
    made = Transformer(NetworkShape(2, 32, 4, 2, tied_embeddings=tied, **{**LLAMA, **changes}), VOCAB_SIZE, CONTEXT_LENGTH, multiple)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(5)  # logits that differ
    return made.to(dtype).eval()


def ids_of(vocab_size: int = VOCAB_SIZE, length: int = CONTEXT_LENGTH) -> Tensor:
    return torch.randint(vocab_size, (3, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("tied", [True, False])
def test_what_was_there_stays_to_the_bit(tied: bool, multiple: int, dtype: torch.dtype) -> None:
    before = network(tied, multiple, dtype)
    after = copy.deepcopy(before)
    add_ids(after, 3, VOCAB_SIZE + 3)
    assert (after.vocab_size, after.num_rows) == (64, 64) and after.embedding.num_embeddings == 64
    assert torch.equal(after.head_weight_VD[:VOCAB_SIZE], before.head_weight_VD)
    with torch.no_grad():
        hidden = before(ids_of())
        assert torch.equal(after(ids_of()), hidden)
        logits = before.logits(hidden)
        assert torch.equal(linear(hidden, after.head_weight_VD[:VOCAB_SIZE]), logits)  # the same numbers in the same product
        torch.testing.assert_close(after.logits(hidden)[..., :VOCAB_SIZE], logits)  # another width, which torch sums in another order
        if dtype == torch.float32 and calls.available():
            assert torch.equal(after.logits(hidden[:1])[..., :VOCAB_SIZE], before.logits(hidden[:1]))  # our kernel does not
    others = {name: tensor for name, tensor in before.state_dict().items() if name not in ("embedding.weight", "head.weight")}
    assert all(torch.equal(after.state_dict()[name], tensor) for name, tensor in others.items())
    assert (after.head is None) == tied and len(list(after.parameters())) == len(list(before.parameters()))
    fresh = Transformer(after.shape, after.vocab_size, CONTEXT_LENGTH, multiple)  # the same in every size
    assert {name: tensor.shape for name, tensor in fresh.state_dict().items()} == {
        name: tensor.shape for name, tensor in after.state_dict().items()
    }
    assert fresh.init_args == after.init_args and fresh.num_parameters() == after.num_parameters()


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_row_is_the_mean_of_the_old(tied: bool) -> None:
    resized = network(tied, 8)
    rows = {"embedding": resized.embedding.weight[:VOCAB_SIZE].double().mean(0)}
    if resized.head is not None:
        rows["head"] = resized.head.weight[:VOCAB_SIZE].double().mean(0)
    add_ids(resized, 5, VOCAB_SIZE + 5)
    for name, mean_D in rows.items():
        weight_VD = resized.get_submodule(name).weight
        assert isinstance(weight_VD, Tensor) and weight_VD.requires_grad
        torch.testing.assert_close(weight_VD[VOCAB_SIZE : VOCAB_SIZE + 5].double(), mean_D.expand(5, -1), rtol=0, atol=1e-8)
        assert not weight_VD[VOCAB_SIZE + 5 :].any() and len(weight_VD) == 72  # rows that pad


def test_new_ids_take_little_from_the_old_whatever_the_hidden_state() -> None:
    """By Jensen a mean's exponential is at most the mean's of exponentials: K of V + K ids have at most K / (V + K) (Hewitt 2021)."""
    resized = network(dtype=torch.float64)
    before = copy.deepcopy(resized)
    add_ids(resized, 4, VOCAB_SIZE + 4)
    hidden = torch.randn(500, 32, dtype=torch.float64) * torch.logspace(-2, 2, 500, dtype=torch.float64)[:, None]
    probabilities = resized.logits(hidden).softmax(-1)
    assert (probabilities[:, VOCAB_SIZE:].sum(-1) <= 4 / (VOCAB_SIZE + 4) + 1e-12).all()
    log_ratio = resized.logits(hidden).log_softmax(-1)[:, :VOCAB_SIZE] - before.logits(hidden).log_softmax(-1)
    assert (log_ratio >= math.log(VOCAB_SIZE / (VOCAB_SIZE + 4)) - 1e-12).all() and (log_ratio <= 1e-12).all()


def test_ids_that_a_table_keeps_ready_are_given_away_first() -> None:
    """As Qwen's: 61 rows, of which the tokenizer has 50 ids."""
    resized = network()
    old = resized.embedding.weight.detach().clone()
    add_ids(resized, 2, 52)
    assert resized.vocab_size == VOCAB_SIZE
    now = resized.embedding.weight
    assert torch.equal(now[:50], old[:50]) and torch.equal(now[52:], old[52:])
    torch.testing.assert_close(now[50:52], old[:50].mean(0).expand(2, -1))


def test_new_rows_learn() -> None:
    resized = network()
    add_ids(resized, 2, VOCAB_SIZE + 2)
    before = resized.embedding.weight.detach().clone()
    ids = torch.tensor([[5, 61, 7, 62, 9]])
    loss = F.cross_entropy(resized.logits(resized(ids))[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    gradient = resized.embedding.weight.grad
    assert gradient is not None and not torch.equal(gradient[61], gradient[62]) and gradient[61].any()
    assert torch.equal(before[61], before[62])


@pytest.mark.parametrize(
    ("num_new", "vocab_size", "saying"),
    [(3, 80, "would begin at id 77, and the network has 61 ids"), (61, 61, "would begin at id 0")],
)
def test_ids_that_do_not_follow(num_new: int, vocab_size: int, saying: str) -> None:
    with pytest.raises(ValueError, match=saying):
        add_ids(network(), num_new, vocab_size)


@pytest.mark.parametrize("kind", [None, "linear", "llama3", "yarn"])
def test_a_longer_context(kind: Any) -> None:
    longer = network()
    lengthen(longer, 128, kind)
    scaling = longer.shape.rotary_scaling
    assert scaling is not None and (scaling.kind, scaling.factor) == (kind or "yarn", 4.0) and longer.context_length == 128
    assert scaling.original_context_length == (None if kind == "linear" else CONTEXT_LENGTH)
    assert longer(ids_of(length=128)).isfinite().all()
    assert not torch.equal(longer(ids_of()), network()(ids_of()))


def test_positions_interpolated_linearly_are_those_between() -> None:
    """With a factor of 2, every other position of the longer sequence turns as its half did."""
    longer, before = network(dtype=torch.float64), network(dtype=torch.float64)
    lengthen(longer, 64, "linear")
    positions = torch.arange(CONTEXT_LENGTH)[None]
    torch.testing.assert_close(longer(ids_of(), 2 * positions), before(ids_of(), positions), rtol=0, atol=1e-12)


def test_what_is_long_already_is_lengthened_in_its_own_way() -> None:
    once, twice = network(), network()
    lengthen(once, 128)
    lengthen(twice, 64, "yarn")
    lengthen(twice, 128)
    assert once.shape == twice.shape
    with pytest.raises(ValueError, match="scaled by yarn already: leave rotary_scaling linear out"):
        lengthen(twice, 256, "linear")


@pytest.mark.parametrize(
    ("made", "length", "saying"),
    [
        (lambda: network(), 32, "not longer than the network's own 32"),
        (lambda: network(positions="learned"), 64, "has learned positions: leave context_length out"),
    ],
)
def test_contexts_that_cannot_be(made: Any, length: int, saying: str) -> None:
    with pytest.raises(ValueError, match=saying):
        lengthen(made(), length)
