"""Counts, first values, padding and the ways to run one network, which all compute the same."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional as F

from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer

CONFIGS = Path(__file__).parents[2] / "configs" / "network"
SMALL = NetworkShape(2, 32, 4, num_kv_heads=2, positions="rotary", norm="rms", feedforward="swiglu")


def llama(layers: int, width: int, heads: int, kv_heads: int, inner: int, tied: bool = False, bias: bool = False) -> NetworkShape:
    return NetworkShape(
        layers, width, heads, kv_heads, None, "swiglu", inner, "rms", positions="rotary", tied_embeddings=tied, qkv_bias=bias
    )


def configured(name: str, vocab_size: int, context_length: int) -> Transformer:
    arguments = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["init_args"]
    shape = NetworkShape(**arguments.pop("shape"))
    with torch.device("meta"):
        return Transformer(shape, vocab_size, context_length, **arguments)


@pytest.mark.parametrize(
    ("name", "vocab_size", "context_length", "count"),
    [
        ("gpt2-124m", 50257, 1024, 124_439_808),
        ("gpt2-medium", 50257, 1024, 354_823_168),
        ("gpt2-large", 50257, 1024, 774_030_080),
        ("gpt2-xl", 50257, 1024, 1_557_611_200),
        ("llama-1b", 32000, 2048, 1_100_048_384),
        ("llama-60m", 32000, 1024, 58_073_600),
        ("smollm2-135m", 49152, 8192, 134_515_008),
        ("10m", 65, 256, 10_745_088),
        ("tiny", 65, 64, 861_440),
    ],
)
def test_configs_have_the_published_sizes(name: str, vocab_size: int, context_length: int, count: int) -> None:
    assert configured(name, vocab_size, context_length).num_parameters() == count


def test_every_config_of_the_folder_is_counted() -> None:
    counted = {"gpt2-124m", "gpt2-medium", "gpt2-large", "gpt2-xl", "llama-1b", "llama-60m", "smollm2-135m", "10m", "tiny"}
    plain = {file.stem for file in CONFIGS.glob("*.yaml") if yaml.safe_load(file.read_text())["class_path"] == "Transformer"}
    assert plain == counted


@pytest.mark.parametrize(
    ("shape", "vocab_size", "count"),
    [
        (llama(32, 4096, 32, 32, 11008), 32000, 6_738_415_616),  # Llama-2 7B, 13B, 70B
        (llama(40, 5120, 40, 40, 13824), 32000, 13_015_864_320),
        (llama(80, 8192, 64, 8, 28672), 32000, 68_976_648_192),
        (llama(32, 4096, 32, 8, 14336), 128256, 8_030_261_248),  # Llama-3 8B
        (llama(16, 2048, 32, 8, 8192, tied=True), 128256, 1_235_814_400),  # Llama-3.2 1B
        (llama(32, 4096, 32, 8, 14336), 32000, 7_241_732_096),  # Mistral 7B
        (llama(24, 896, 14, 2, 4864, tied=True, bias=True), 151936, 494_032_768),  # Qwen2.5 0.5B, 7B
        (llama(28, 3584, 28, 4, 18944, bias=True), 152064, 7_615_616_512),
    ],
)
def test_shapes_have_the_published_sizes(shape: NetworkShape, vocab_size: int, count: int) -> None:
    with torch.device("meta"):
        assert Transformer(shape, vocab_size, 2048).num_parameters() == count


@pytest.mark.parametrize("vocab_multiple", [1, 64])
def test_padding_is_not_counted(vocab_multiple: int) -> None:
    with torch.device("meta"):
        shape = NetworkShape(12, 768, 12, qkv_bias=True, out_bias=True, feedforward_bias=True, norm_bias=True)
        gpt2 = Transformer(shape, 50257, 1024, vocab_multiple)
        untied = Transformer(llama(2, 64, 4, 4, 128), 100, 16, vocab_multiple)
    assert gpt2.num_parameters() == 124_439_808
    assert gpt2.flops_per_token(1024) == 855_166_464  # TRAP-42: N without positions
    assert untied.num_parameters() == 2 * 100 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    assert untied.flops_per_token(16) == 6 * (untied.num_parameters() - 100 * 64) + 12 * 2 * 64 * 16


def test_a_window_bounds_the_work() -> None:
    network = Transformer(NetworkShape(1, 32, 2, sliding_window=8), 50, 64)
    assert network.flops_per_token(64) == network.flops_per_token(8) > network.flops_per_token(4)
    mixed = Transformer(NetworkShape(3, 32, 2, sliding_window=8, windowed_layers=(0, 2)), 50, 64)
    assert mixed.flops_per_token(64) - mixed.flops_per_token(8) == 12 * 32 * (64 - 8)  # one layer sees everything


def test_decay_goes_where_gpt2_has_it() -> None:
    """TRAP-30's numbers: 50 tensors with two dimensions, 98 with one; and TRAP-31: the tied table is one parameter."""
    network = configured("gpt2-124m", 50257, 1024)
    roles, parameters = network.roles(), dict(network.named_parameters())
    vectors = [parameters[name].numel() for name, role in roles.items() if role == "vector"]
    others = [parameters[name].numel() for name, role in roles.items() if role != "vector"]
    assert (len(vectors), sum(vectors), len(others), sum(others)) == (98, 121_344, 50, 124_318_464)
    assert {name for name, role in roles.items() if role == "embedding"} == {"embedding.weight", "position_embedding.weight"}


def test_an_output_table_of_its_own_is_an_embedding_to_the_optimizer() -> None:
    roles = Transformer(llama(1, 32, 2, 2, 64), 50, 16).roles()
    assert roles["head.weight"] == roles["embedding.weight"] == "embedding"
    assert roles["blocks.0.attention.qkv.weight"] == "matrix"
    assert roles["norm.weight"] == "vector"


def test_first_values_are_the_table() -> None:
    """TRAP-41: measured deviations within 5% of what the table says."""
    torch.manual_seed(0)
    layers = 8
    network = Transformer(
        NetworkShape(layers, 128, 4, norm_bias=True, qkv_bias=True, feedforward_bias=True, out_bias=True, tied_embeddings=False), 500, 64
    )
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert bool((parameter == 1).all()), name
        else:
            residual = name.endswith(("attention.out.weight", "down.weight"))
            expected = 0.02 / math.sqrt(2 * layers) if residual else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(parameter.mean().item()) < expected * 0.05, name


@pytest.mark.parametrize("shape", [NetworkShape(4, 128, 4), llama(4, 128, 4, 2, 256), llama(4, 128, 4, 4, 256, tied=True)])
def test_untrained_loss_is_that_of_a_guess(shape: NetworkShape) -> None:
    """TRAP-19."""
    torch.manual_seed(0)
    network = Transformer(shape, 1000, 64)
    ids_BT = torch.randint(1000, (8, 64))
    loss = F.cross_entropy(network.logits(network(ids_BT))[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())
    assert abs(loss.item() - math.log(1000)) < 0.25


@pytest.mark.parametrize("tied", [True, False])
def test_padding_rows_are_never_seen(tied: bool) -> None:
    """TRAP-17: whatever stands in them, logits, losses and gradients are those of the network without them."""
    shape = NetworkShape(1, 32, 2, tied_embeddings=tied)
    networks = []
    for vocab_multiple in (1, 64):
        torch.manual_seed(0)
        networks.append(Transformer(shape, 50, 16, vocab_multiple))
    plain, padded = networks
    tables = [table for table in (padded.embedding, padded.head) if table is not None]
    assert all(len(table.weight) == 64 and not table.weight[50:].any() for table in tables)
    with torch.no_grad():
        for table in tables:
            table.weight[50:] = 100.0
    ids_BT = torch.randint(50, (2, 16))
    for network in networks:
        network.logits(network(ids_BT)).logsumexp(-1).sum().backward()
    assert padded.logits(padded(ids_BT)).shape == (2, 16, 50)
    assert padded.head_weight_VD.shape == (50, 32)
    torch.testing.assert_close(padded.logits(padded(ids_BT)), plain.logits(plain(ids_BT)))
    for table in tables:
        assert table.weight.grad is not None
        assert not table.weight.grad[50:].any()


def test_tied_table_gets_the_gradients_of_both_uses() -> None:
    """TRAP-31, and the tie holds after a copy, a move and a load."""
    network = Transformer(NetworkShape(1, 32, 2), 50, 16).double()
    ids_BT = torch.arange(8)[None]
    parts = []
    for use in ("input", "output", "both"):
        network.zero_grad()
        hidden_BTD, table_VD = network(ids_BT), network.head_weight_VD
        hidden_BTD, table_VD = hidden_BTD if use != "output" else hidden_BTD.detach(), table_VD if use != "input" else table_VD.detach()
        (hidden_BTD @ table_VD.T).logsumexp(-1).sum().backward()
        assert network.embedding.weight.grad is not None
        parts.append(network.embedding.weight.grad)
    torch.testing.assert_close(parts[0] + parts[1], parts[2], rtol=0, atol=1e-12)
    moved = copy.deepcopy(network).float().double()
    moved.load_state_dict(network.state_dict())
    assert moved.head_weight_VD is moved.embedding.weight


@pytest.mark.parametrize("vocab_multiple", [1, 64])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activation_checkpointing_changes_no_bit(dropout: float, vocab_multiple: int) -> None:
    """TRAP-38: same loss, same gradients, dropout included."""
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = Transformer(NetworkShape(2, 32, 4, dropout=dropout), 50, 16, vocab_multiple, activation_checkpointing=recompute)
        network.logits(network(torch.arange(16)[None])).logsumexp(-1).sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))  # type: ignore[arg-type]


def test_dropout_acts_in_training_only() -> None:
    """TRAP-25."""
    network = Transformer(NetworkShape(1, 32, 4, dropout=0.5), 50, 16)
    ids_BT = torch.arange(16)[None]
    assert not torch.equal(network(ids_BT), network(ids_BT))
    network.eval()
    assert torch.equal(network(ids_BT), network(ids_BT))


def test_forward_is_one_graph_for_the_compiler() -> None:
    torch.compiler.reset()
    ids_BT, documents_BT = torch.arange(16)[None], torch.arange(16)[None] // 5
    for shape in (NetworkShape(2, 32, 4, qk_norm=True), SMALL):
        network = Transformer(shape, 50, 16)
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(ids_BT), network(ids_BT))
        torch.testing.assert_close(compiled(ids_BT, None, documents_BT), network(ids_BT, None, documents_BT))
    torch.compiler.reset()


@pytest.mark.slow
def test_compiled_network_is_the_same_and_decodes_uncompiled() -> None:
    torch.manual_seed(0)
    network = Transformer(SMALL, 50, 16, compile=True)
    plain = copy.deepcopy(network)
    ids_BT = torch.arange(16)[None]
    torch.testing.assert_close(network(ids_BT), plain(ids_BT), rtol=0, atol=1e-5)
    assert network.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        cache, table = network.new_cache(1), torch.tensor([[1]], dtype=torch.int32)
        pieces = torch.cat([network(ids_BT[:, t : t + 1], cache=cache.view(table, [t], [1])) for t in range(16)], dim=1)
    torch.testing.assert_close(pieces, plain(ids_BT), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [NetworkShape(2, 64, 4, norm_bias=True), SMALL])
@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_bf16_is_near_fp32(shape: NetworkShape, way: str) -> None:
    torch.manual_seed(0)
    network = Transformer(shape, 50, 64).eval()
    ids_BT = torch.randint(50, (2, 64))
    exact = network.logits(network(ids_BT))
    if way == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            found = network.logits(network(ids_BT))
    else:
        network = network.bfloat16()
        found = network.logits(network(ids_BT))
        assert network(ids_BT).dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0, atol=2e-2)


def test_sizes_that_do_not_fit_are_refused() -> None:
    for sizes in ({"vocab_size": 50}, {"context_length": 8}, {}):
        with pytest.raises(ValueError, match=r"vocab_size.*context_length"):
            Transformer(SMALL, **sizes)
    with pytest.raises(ValueError, match="positive"):
        Transformer(SMALL, 50, 8, vocab_multiple=0)
    network = Transformer(SMALL, 50, 8)
    with pytest.raises(ValueError, match=r"9 tokens .* context length 8"):
        network(torch.zeros(1, 9, dtype=torch.long))
    cache, table = network.new_cache(1), torch.tensor([[1]], dtype=torch.int32)
    network(torch.zeros(1, 5, dtype=torch.long), cache=cache.view(table, [0], [5]))
    with pytest.raises(ValueError, match=r"9 tokens .* context length 8"):
        network(torch.zeros(1, 4, dtype=torch.long), cache=cache.view(table, [5], [4]))
    with pytest.raises(ValueError, match="documents_BT"):
        network(torch.zeros(1, 1, dtype=torch.long), documents_BT=torch.zeros(1, 1), cache=cache.view(table, [5], [1]))
    with pytest.raises(ValueError, match="1 blocks of 16 tokens"):
        cache.view(table, [16], [1])


def test_init_args_build_the_network_again() -> None:
    network = Transformer(SMALL, 50, 16, vocab_multiple=8)
    arguments: dict[str, Any] = network.init_args
    again = Transformer(**(arguments | {"shape": NetworkShape(**arguments["shape"])}))
    assert again.shape == SMALL
    assert again.init_args == arguments
    again.load_state_dict(network.state_dict())
