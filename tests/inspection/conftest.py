"""Small networks to look inside: one of each family, one that is no Transformer, and a generator around one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from framework.engine.engine import Engine
from framework.generation import Generator
from framework.networks.base import Network
from framework.networks.cache import View
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte

SHAPES = {
    "gpt2": NetworkShape(
        3, 32, 4, feedforward="gelu_tanh", qkv_bias=True, out_bias=True, feedforward_bias=True, norm_bias=True, tied_embeddings=True
    ),
    "relu": NetworkShape(2, 32, 4, feedforward="relu", tied_embeddings=False),
    "llama": NetworkShape(3, 32, 4, 2, feedforward="swiglu", norm="rms", positions="rotary", tied_embeddings=False),
    "qwen": NetworkShape(2, 32, 4, 1, 16, feedforward="swiglu", norm="rms", positions="rotary", qk_norm=True, qkv_bias=True),
    "mistral": NetworkShape(2, 32, 4, 2, feedforward="swiglu", norm="rms", positions="rotary", sliding_window=4),
    "gemma": NetworkShape(
        3,
        32,
        4,
        2,
        16,
        feedforward="geglu_tanh",
        norm="rms_plus_one",
        positions="rotary",
        sliding_window=5,
        windowed_layers=(0, 2),
        unrotated_layers=(1,),
        output_norms=True,
        scaled_embeddings=True,
        attention_scale_width=24,
        attention_softcap=3.0,
        logit_softcap=8.0,
    ),
}
VOCABULARY, CONTEXT = 264, 96


def network_of(shape: NetworkShape, vocab_size: int = VOCABULARY, context_length: int = CONTEXT) -> Transformer:
    """A network with weights large enough that nothing is nearly uniform."""
    torch.manual_seed(0)
    network = Transformer(shape, vocab_size, context_length).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(0.15 * torch.randn_like(parameter))
    return network


@pytest.fixture(params=SHAPES)
def network(request: pytest.FixtureRequest) -> Transformer:
    """A small network of each family."""
    return network_of(SHAPES[request.param])


@pytest.fixture
def llama() -> Transformer:
    """One with grouped key-value heads."""
    return network_of(SHAPES["llama"])


@pytest.fixture
def generator(llama: Transformer) -> Generator:
    """The same with a tokenizer; its vocabulary is a little larger than the tokenizer's."""
    return Generator(Engine(llama, max_running=1, vocab_size=Byte().vocab_size), Byte())


class Averages(Network):
    """Averages of embeddings so far: no layers, no cache."""

    def __init__(self) -> None:
        super().__init__()
        self.vocab_size, self.context_length = VOCABULARY, CONTEXT
        self.embedding, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, VOCABULARY, bias=False)

    def forward(
        self, ids_BT: Tensor, positions_BT: Tensor | None = None, documents_BT: Tensor | None = None, cache: View | None = None
    ) -> Tensor:
        assert cache is None
        return self.embedding(ids_BT).cumsum(dim=1) / torch.arange(1, ids_BT.shape[1] + 1)[:, None]

    @property
    def head_weight_VD(self) -> Tensor:
        return self.head.weight

    @property
    def init_args(self) -> dict[str, object]:
        return {}

    def flops_per_token(self, length: int) -> int:
        return 0


@pytest.fixture
def averages() -> Network:
    """A network that is no Transformer."""
    torch.manual_seed(0)
    return Averages().eval()
