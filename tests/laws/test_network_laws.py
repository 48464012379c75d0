"""The conformance suite over shapes of every kind, and laws that need two runs of one network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from framework.losses import IGNORE, next_token
from framework.networks.base import Network
from framework.networks.cache import Cache
from framework.networks.shape import NetworkShape, RotaryScaling
from framework.networks.transformer import Transformer
from framework.testing.networks import CHECKS, check_cache_changes_nothing, check_is_causal, check_shapes, transformer

SHAPES = {
    "gpt2": NetworkShape(
        2, 32, 4, feedforward="gelu_tanh", qkv_bias=True, out_bias=True, feedforward_bias=True, norm_bias=True, dropout=0.1
    ),
    "llama": NetworkShape(2, 32, 4, 2, 6, "swiglu", norm="rms", positions="rotary", tied_embeddings=False),
    "qwen3": NetworkShape(2, 32, 4, 1, feedforward="geglu", norm="rms", positions="rotary", qk_norm=True),
    "window": NetworkShape(2, 32, 2, feedforward="relu2", positions="rotary", sliding_window=5),
    "learned-window": NetworkShape(2, 32, 2, feedforward="relu", sliding_window=3, qk_norm=True),
    "gemma2": NetworkShape(
        3, 32, 4, 2, feedforward="geglu_tanh", norm="rms_plus_one", positions="rotary", output_norms=True, scaled_embeddings=True,
        sliding_window=5, windowed_layers=(0, 2), attention_scale_width=11, attention_softcap=0.5, logit_softcap=0.2,
    ),
    "gemma3": NetworkShape(
        3, 32, 4, 1, feedforward="geglu_tanh", norm="rms_plus_one", positions="rotary", qk_norm=True, sliding_window=5,
        windowed_layers=(0, 1), local_rotary_theta=100.0, rotary_scaling=RotaryScaling("linear", 4.0),
    ),
    "smollm3": NetworkShape(
        3, 32, 4, feedforward="swiglu", norm="rms", positions="rotary", unrotated_layers=(1,),
        rotary_scaling=RotaryScaling("yarn", 2.0, original_context_length=16),
    ),
}  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [*SHAPES, "example"])
def test_conformance(check: Callable[[Callable[..., Network]], None], name: str) -> None:
    def build(vocab_size: int, context_length: int) -> Network:
        return transformer(vocab_size, context_length) if name == "example" else Transformer(SHAPES[name], vocab_size, context_length, 16)

    check(build)


class Leaky(Transformer):
    def forward(self, *arguments, **named):  # type: ignore[no-untyped-def]
        hidden_BTD = super().forward(*arguments, **named)
        return hidden_BTD + 1e-9 * hidden_BTD.mean(1, keepdim=True)


class Forgetful(Transformer):
    def forward(self, ids_BT, positions_BT=None, documents_BT=None, cache=None):  # type: ignore[no-untyped-def]
        positions_BT = torch.arange(ids_BT.shape[1])[None] if positions_BT is None else positions_BT
        return super().forward(ids_BT, positions_BT, documents_BT, cache)


class Padded(Transformer):
    @property
    def head_weight_VD(self) -> torch.Tensor:
        return self.embedding.weight


@pytest.mark.parametrize(("kind", "check"), [(Leaky, check_is_causal), (Forgetful, check_cache_changes_nothing), (Padded, check_shapes)])
def test_a_faulty_network_is_found(kind: type[Transformer], check: Callable[[Callable[..., Network]], None]) -> None:
    with pytest.raises(AssertionError):
        check(lambda vocab_size, context_length: kind(SHAPES["llama"], vocab_size, context_length, 16))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_left_padding_is_invisible(name: str) -> None:
    """TRAP-83, learned positions included: padding is a document of its own, and positions count from the first real token."""
    torch.manual_seed(0)
    network = Transformer(SHAPES[name], 61, 24).double().eval()
    short, padding = torch.randint(61, (1, 9)), 6
    ids_BT = torch.cat([torch.full((1, padding), 3), short], dim=1)
    positions_BT = (torch.arange(15) - padding).clamp(min=0)[None]
    documents_BT = (torch.arange(15) >= padding).long()[None]
    found = network(ids_BT, positions_BT, documents_BT)[:, padding:]
    torch.testing.assert_close(found, network(short), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_packing_keeps_loss_and_gradients(name: str) -> None:
    """TRAP-10: a pack of documents trains as the documents alone do."""
    torch.manual_seed(0)
    network = Transformer(SHAPES[name], 61, 24).double().eval()
    documents = [torch.randint(61, (length,)) for length in (5, 1, 11, 7)]
    targets = [torch.cat([document[1:], torch.tensor([IGNORE])]) for document in documents]
    for ids, wanted in zip(documents, targets, strict=True):
        next_token(network(ids[None]), network.head_weight_VD, wanted[None]).backward()
    alone = [parameter.grad for parameter in network.parameters()]
    network.zero_grad()
    numbers = torch.cat([torch.full((len(document),), number) for number, document in enumerate(documents)])
    positions = torch.cat([torch.arange(len(document)) for document in documents])
    hidden_BTD = network(torch.cat(documents)[None], positions[None], numbers[None])
    next_token(hidden_BTD, network.head_weight_VD, torch.cat(targets)[None]).backward()
    for parameter, gradient in zip(network.parameters(), alone, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-12)


def test_greedy_text_does_not_depend_on_the_cache() -> None:
    """TRAP-81, fp32: the same ids, hidden states within 1e-5."""
    torch.manual_seed(0)
    network = Transformer(SHAPES["llama"], 61, 48).eval()
    ids, cache, table = torch.randint(61, (1, 4)), network.new_cache(3), torch.tensor([[2, 3, 1]], dtype=torch.int32)
    assert isinstance(cache, Cache)
    with torch.no_grad():
        hidden = network(ids, cache=cache.view(table, [0], [4]))
        for _ in range(40):
            torch.testing.assert_close(hidden[:, -1], network(ids)[:, -1], rtol=0, atol=1e-5)
            token = network.logits(hidden)[:, -1:].argmax(-1)
            assert token.equal(network.logits(network(ids))[:, -1:].argmax(-1))
            ids = torch.cat([ids, token], dim=1)
            hidden = network(token, cache=cache.view(table, [ids.shape[1] - 1], [1]))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_fixed_sequence_is_learnt_by_heart(name: str) -> None:
    """TRAP-18: exactly one shift, or the loss could not fall under 0.01."""
    torch.manual_seed(0)
    network = Transformer(SHAPES[name], 61, 33)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    sequence = torch.randint(61, (1, 33))
    network.eval()  # dropout off
    for _ in range(80):
        loss = next_token(network(sequence[:, :-1]), network.head_weight_VD, sequence[:, 1:]) / 32
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01
    logits = network.logits(network(sequence))
    assert F.cross_entropy(logits[0, :-1], sequence[0, 1:]).item() < 0.01
