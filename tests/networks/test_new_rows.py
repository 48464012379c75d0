"""New tokens under a LoRA: the adapter has rows of its own for them, which learn; all others stay frozen (TRAP-80, TRAP-31)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from framework.networks.base import Network
from framework.networks.lora import LoRA
from framework.networks.quantized import Kind
from framework.networks.resize import add_ids
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.optimizers.adamw import AdamW
from framework.optimizers.groups import parameter_groups

KNOWN, NEW, CONTEXT_LENGTH = 61, 3, 24


def base_of(tied: bool = True, resized: bool = True, vocab_size: int = KNOWN, softcap: float | None = None) -> Transformer:
    torch.manual_seed(0)
    shape = NetworkShape(2, 32, 4, 2, feedforward="swiglu", norm="rms", positions="rotary", tied_embeddings=tied, logit_softcap=softcap)
    network = Transformer(shape, vocab_size, CONTEXT_LENGTH)
    if resized:
        add_ids(network, NEW, KNOWN + NEW)
    return network


def lora_of(tied: bool = True, quantize: Kind | None = None, **base: Any) -> LoRA:
    torch.manual_seed(1)
    return LoRA(lambda **sizes: base_of(tied, **base), new_ids=NEW, quantize=quantize, vocab_size=KNOWN + NEW)


def ids_of() -> Tensor:
    ids_BT = torch.randint(KNOWN + NEW, (4, CONTEXT_LENGTH), generator=torch.Generator().manual_seed(0))
    ids_BT[:, 5 : 5 + NEW + 2] = torch.arange(KNOWN - 2, KNOWN + NEW)  # each new one, and the last ones before
    return ids_BT


def loss_of(network: Network) -> Tensor:
    return F.cross_entropy(network.logits(network(ids_of()))[:, :-1].flatten(0, 1), ids_of()[:, 1:].flatten())


def train(network: LoRA, steps: int = 5) -> LoRA:
    optimizer = AdamW(parameter_groups(network.named_parameters(), network.roles()), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(network).backward()
        optimizer.step()
    return network


@pytest.mark.parametrize("tied", [True, False])
def test_it_begins_as_the_resized_base_to_the_bit(tied: bool) -> None:
    network, base = lora_of(tied), base_of(tied)
    assert network.new_ids == range(KNOWN, KNOWN + NEW)
    assert torch.equal(network(ids_of()), base(ids_of()))
    assert torch.equal(network.head_weight_VD, base.head_weight_VD)


@pytest.mark.parametrize("tied", [True, False])
def test_only_these_rows_learn_and_each_of_them(tied: bool) -> None:
    network = lora_of(tied)
    rows = network.rows["default"]
    assert (rows.head_rows_KD is None) == tied
    before = {name: tensor.clone() for name, tensor in network.frozen().items()}
    train(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.frozen().items()) and "embedding.weight" in before
    for table_KD in rows.parameters():
        assert table_KD.shape == (NEW, 32) and len({tuple(row.tolist()) for row in table_KD}) == NEW
    roles = {name: role for name, role in network.roles().items() if "rows_KD" in name}
    assert set(roles.values()) == {"embedding"} and len(roles) == (1 if tied else 2)  # never Muon's, never decayed


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_are_those_of_the_rows_of_whole_tables(tied: bool) -> None:
    network, base = lora_of(tied).double(), base_of(tied).double()
    loss_of(network).backward()
    loss_of(base).backward()
    for table_KD, whole in zip(network.rows["default"].parameters(), [base.embedding, base.head], strict=False):
        assert whole is not None and whole.weight.grad is not None and table_KD.grad is not None
        torch.testing.assert_close(table_KD.grad, whole.weight.grad[KNOWN:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_merged_is_the_same_network(tied: bool, quantize: Kind | None, softcap: float | None) -> None:
    network = train(lora_of(tied, quantize, softcap=softcap))
    merged = network.merged()
    assert isinstance(merged, Transformer) and type(merged.embedding) is torch.nn.Embedding and (merged.head is None) == tied
    table_KD = network.rows["default"].rows_KD
    assert torch.equal(merged.embedding.weight[KNOWN:], table_KD) and not table_KD.requires_grad_(False).equal(
        base_of(tied).embedding.weight[KNOWN:]
    )
    assert torch.equal(merged.embedding.weight[:KNOWN], base_of(tied).embedding.weight[:KNOWN])
    logits = network.logits(network(ids_of()))
    torch.testing.assert_close(merged.logits(merged(ids_of())), logits, rtol=0, atol=1e-5 if quantize is None else 0.05)
    with torch.no_grad():  # what inference keeps is followed when a row changes, and is no one else's
        assert torch.equal(network.head_weight_VD[KNOWN:], (table_KD if tied else network.rows["default"].head_rows_KD))
        merged.head_weight_VD.zero_()
        for rows in network.rows["default"].parameters():
            rows.add_(1)
        assert network.head_weight_VD[KNOWN:].mean() > 0.5


def test_the_reference_has_the_rows_of_the_base() -> None:
    network = train(lora_of())
    with network.disabled():
        assert torch.equal(network(ids_of()), base_of()(ids_of()))
        assert torch.equal(network.head_weight_VD, base_of().head_weight_VD)
    assert not torch.equal(network(ids_of()), base_of()(ids_of()))


def test_adapters_have_rows_each() -> None:
    network = train(lora_of())
    one = network(ids_of())
    network.add("other")
    network.use("other")
    assert torch.equal(network(ids_of()), base_of()(ids_of()))
    trained = {name.split(".")[-2] for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {"other"}
    network.use("default")
    assert torch.equal(network(ids_of()), one)
    with pytest.raises(ValueError, match="must have rows for range"):
        network.put("third", {})


@pytest.mark.parametrize("quantize", [None, "int4"])
def test_its_state_is_the_adapter_s(quantize: Kind | None) -> None:
    network = train(lora_of(tied=False, quantize=quantize))
    state = network.state_dict()
    assert sum("rows_KD" in name for name in state) == 2 and "base.embedding.weight" not in state
    other = lora_of(tied=False, quantize=quantize)
    other.load_state_dict(state)
    assert torch.equal(other(ids_of()), network(ids_of())) and torch.equal(other.head_weight_VD, network.head_weight_VD)
    copied = copy.deepcopy(network)
    assert torch.equal(copied(ids_of()), network(ids_of()))


@pytest.mark.parametrize("vocab_size", [KNOWN, KNOWN + 2, KNOWN + 9])
def test_the_digest_is_the_base_s_before_it_got_them(vocab_size: int) -> None:
    """Whether or not it has been resized, and whatever rows its tables kept ready: so an adapter finds its base again."""
    resized = lora_of(vocab_size=vocab_size)
    as_stored = LoRA.around(base_of(resized=False, vocab_size=vocab_size), range(KNOWN, KNOWN + NEW))
    assert resized.base_digest == as_stored.base_digest
    assert torch.equal(as_stored.base.head_weight_VD, base_of(vocab_size=vocab_size).head_weight_VD)
    changed = base_of(resized=False, vocab_size=vocab_size)
    with torch.no_grad():
        changed.embedding.weight[KNOWN - 1, 0] += 1
    assert LoRA.around(changed, range(KNOWN, KNOWN + NEW)).base_digest != resized.base_digest


def test_more_new_ids_than_ids() -> None:
    with pytest.raises(ValueError, match="70 new ids are too many"):
        LoRA(lambda **sizes: base_of(), new_ids=70)
