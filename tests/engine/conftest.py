"""Tiny float64 networks: two Transformers with a cache, and a plain one without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from framework.networks.base import Network
from framework.networks.cache import View
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer

VOCAB_SIZE, CONTEXT_LENGTH = 31, 72


class Plain(Network):
    """Averages of embeddings so far: causal, and with no cache to offer."""

    def __init__(self) -> None:
        super().__init__()
        self.vocab_size, self.context_length = VOCAB_SIZE, CONTEXT_LENGTH
        self.embedding = nn.Embedding(VOCAB_SIZE, 8)
        self.head = nn.Linear(8, VOCAB_SIZE, bias=False)
        self.forward_lengths: list[int] = []

    def forward(
        self, ids_BT: Tensor, positions_BT: Tensor | None = None, documents_BT: Tensor | None = None, cache: View | None = None
    ) -> Tensor:
        self.forward_lengths.append(ids_BT.shape[1])
        steps = torch.arange(1, ids_BT.shape[1] + 1)[:, None]
        return (self.embedding(ids_BT).cumsum(dim=1) / steps + self.embedding(ids_BT)).tanh()

    @property
    def head_weight_VD(self) -> Tensor:
        return self.head.weight

    @property
    def init_args(self) -> dict[str, object]:
        return {}

    def flops_per_token(self, length: int) -> int:
        return 6 * self.num_parameters()


def _make(name: str) -> Network:
    """A network whose distributions are neither flat nor certain."""
    torch.manual_seed(0)
    shapes = {
        "learned": NetworkShape(num_layers=2, width=16, num_heads=4, dropout=0.3),
        "rotary": NetworkShape(
            num_layers=2,
            width=16,
            num_heads=4,
            num_kv_heads=2,
            positions="rotary",
            norm="rms",
            feedforward="swiglu",
            tied_embeddings=False,
            sliding_window=7,
        ),
    }
    network = Plain() if name == "plain" else Transformer(shapes[name], VOCAB_SIZE, CONTEXT_LENGTH)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.7)
    return network.double().eval()


@pytest.fixture(params=["learned", "rotary", "plain"])
def network(request: pytest.FixtureRequest) -> Network:
    return _make(request.param)


@pytest.fixture(scope="session")
def make() -> Callable[[str], Network]:
    """A network by its name, the same each time."""
    return _make
