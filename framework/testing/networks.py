"""What every network must do. Checks take `build(vocab_size=..., context_length=...)`. Must not know any particular network.

Shape legend: B batch, T time, D model width, V vocabulary. Checks run in float64, where a real fault shows as 1e-2 and noise as 1e-15.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

from framework.networks.base import Network
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer

Build = Callable[..., Network]

VOCAB_SIZE = 61  # prime: no padding multiple divides it
CONTEXT_LENGTH = 24
TOLERANCE = 1e-12


def transformer(vocab_size: int, context_length: int) -> Transformer:
    """The example of `networks.Transformer`: grouped heads, rotary positions, dropout and a padded vocabulary."""
    shape = NetworkShape(2, width=32, num_heads=4, num_kv_heads=2, positions="rotary", norm="rms", feedforward="swiglu", dropout=0.1)
    return Transformer(shape, vocab_size, context_length, vocab_multiple=8)


def check_shapes(build: Build) -> None:
    """Hidden states for every token; exactly vocab_size rows of output matrix and logits, whatever pads the tables."""
    network, ids_BT = _network(build), _ids()
    hidden_BTD = network(ids_BT)
    assert hidden_BTD.shape[:2] == ids_BT.shape, f"hidden states have shape {list(hidden_BTD.shape)} for ids of {list(ids_BT.shape)}"
    sizes = (network.vocab_size, network.context_length)
    assert sizes == (VOCAB_SIZE, CONTEXT_LENGTH), f"vocab_size and context_length are {sizes}, not {(VOCAB_SIZE, CONTEXT_LENGTH)}"
    expected = (VOCAB_SIZE, hidden_BTD.shape[-1])
    assert network.head_weight_VD.shape == expected, f"head_weight_VD is {list(network.head_weight_VD.shape)}, not {list(expected)}"
    assert network.logits(hidden_BTD).shape == (*ids_BT.shape, VOCAB_SIZE), "logits do not cover exactly the vocabulary"


def check_is_causal(build: Build) -> None:
    """Another token at one place changes nothing before it, to the bit, and something from it on."""
    network, ids_BT = _network(build), _ids()
    before = network(ids_BT)
    for place in range(ids_BT.shape[1]):
        changed_BT = ids_BT.clone()
        changed_BT[:, place] = (changed_BT[:, place] + 1) % VOCAB_SIZE
        after = network(changed_BT)
        assert torch.equal(before[:, :place], after[:, :place]), f"token {place} changes hidden states before it"
        assert not torch.equal(before[:, place], after[:, place]), f"token {place} does not change its own hidden state"


def check_cache_changes_nothing(build: Build) -> None:
    """Tokens given in pieces with a cache have the hidden states they have in one piece, whatever goes through beside them.

    Two sequences go through the cache together, in pieces of different lengths, their blocks lying in any order. Networks without a
    cache pass.
    """
    network, ids_BT = _network(build), _ids()
    whole = network(ids_BT)
    for pieces in ([(1, 1)] * CONTEXT_LENGTH, [(7, 1), (1, 15), (1, 1), (9, 6), (6, 1)], [(CONTEXT_LENGTH, CONTEXT_LENGTH)]):
        cache = network.new_cache(num_blocks=12, block_tokens=4)
        if cache is None:
            return
        tables_RM = torch.tensor([[3, 12, 1, 7, 5, 9], [2, 4, 11, 6, 8, 10]], dtype=torch.int32)
        lengths = [0, 0]
        for counts in pieces:
            spans = [slice(length, length + count) for length, count in zip(lengths, counts)]
            view = cache.view(tables_RM, lengths, counts)
            new_1T = torch.cat([row_T[span] for row_T, span in zip(ids_BT, spans)])[None]
            found = network(new_1T, cache=view)
            expected = torch.cat([row_TD[span] for row_TD, span in zip(whole, spans)])[None]
            _assert_close(found, expected, f"pieces of {pieces} tokens through the cache")
            lengths = [span.stop for span in spans]


def check_documents_are_apart(build: Build) -> None:
    """Documents of one row, given numbers and positions, have the hidden states they have alone; or the network refuses documents."""
    network, ids_BT = _network(build), _ids()
    lengths = [5, 1, 11, 7]
    documents_BT = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths)).expand_as(ids_BT)
    positions_BT = torch.cat([torch.arange(length) for length in lengths]).expand_as(ids_BT)
    try:
        packed = network(ids_BT, positions_BT, documents_BT)
    except ValueError:
        return
    alone = [network(document_BT) for document_BT in ids_BT.split(lengths, dim=1)]  # type: ignore[no-untyped-call]
    _assert_close(packed, torch.cat(alone, dim=1), "documents packed into a row")


def check_some_hidden_states(build: Build) -> None:
    """Hidden states asked for at some places are those that all tokens' have there."""
    network, ids_BT = _network(build), _ids()
    places = (torch.tensor([0, 0, 1]), torch.tensor([2, CONTEXT_LENGTH - 1, 5]))
    _assert_close(network.hidden_at(places, ids_BT), network(ids_BT)[places], "some places alone")


def check_roles_cover_the_parameters(build: Build) -> None:
    """Every parameter has a role, and nothing else has."""
    network = _network(build)
    names, roles = {name for name, _ in network.named_parameters()}, network.roles()
    assert roles.keys() == names, f"roles() and named_parameters() differ in {sorted(roles.keys() ^ names)}"
    assert set(roles.values()) <= {"matrix", "embedding", "vector"}, f"unknown roles {set(roles.values())}"


def check_evaluation_is_repeatable(build: Build) -> None:
    """In eval mode two forwards are equal to the bit: dropout is off."""
    network, ids_BT = _network(build), _ids()
    assert torch.equal(network(ids_BT), network(ids_BT)), "two forwards in eval mode differ"


def check_state_comes_back(build: Build) -> None:
    """A network of the same arguments with the state of another computes the same."""
    one, other, ids_BT = _network(build), _network(build, seed=1), _ids()
    assert not torch.equal(one(ids_BT), other(ids_BT)), "two seeds give one network"
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(ids_BT), other(ids_BT)), "the state does not hold all that decides the hidden states"


def check_init_args_are_json(build: Build) -> None:
    """init_args survive JSON and hold the sizes."""
    arguments = json.loads(json.dumps(_network(build).init_args))
    sizes = {"vocab_size": VOCAB_SIZE, "context_length": CONTEXT_LENGTH}
    assert arguments == arguments | sizes, f"init_args do not hold {sizes}: {arguments}"


def check_counts_its_work(build: Build) -> None:
    """Positive, and no less for longer sequences."""
    network = _network(build)
    short, long = network.flops_per_token(1), network.flops_per_token(CONTEXT_LENGTH)
    assert 0 < short <= long, f"flops_per_token is {short} for one token and {long} for {CONTEXT_LENGTH}"


CHECKS: tuple[Callable[[Build], None], ...] = (
    check_shapes,
    check_is_causal,
    check_cache_changes_nothing,
    check_documents_are_apart,
    check_some_hidden_states,
    check_roles_cover_the_parameters,
    check_evaluation_is_repeatable,
    check_state_comes_back,
    check_init_args_are_json,
    check_counts_its_work,
)


def _network(build: Build, seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(vocab_size=VOCAB_SIZE, context_length=CONTEXT_LENGTH).double().requires_grad_(False).eval()


def _ids() -> Tensor:
    return torch.randint(VOCAB_SIZE, (2, CONTEXT_LENGTH), generator=torch.Generator().manual_seed(0))


def _assert_close(found: Tensor, expected: Tensor, what: str) -> None:
    difference = (found - expected).abs().max().item()
    assert difference <= TOLERANCE, f"{what}: hidden states differ by {difference:.1e}"
