"""The feed-forward half of a block: widen, bend, narrow. Knows no time: every token goes through it alone."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from framework.networks.linear import Linear
from framework.networks.shape import GATED, FeedForwardKind, NetworkShape


def activate(hidden: Tensor, kind: FeedForwardKind) -> Tensor:
    """The activation of a kind; for gated kinds, of the gate."""
    match kind:
        case "gelu" | "geglu":
            return F.gelu(hidden)
        case "gelu_tanh" | "geglu_tanh":
            return F.gelu(hidden, approximate="tanh")
        case "relu":
            return F.relu(hidden)
        case "relu2":  # Primer (So et al. 2021)
            return F.relu(hidden).square()
        case "swiglu":  # GLU variants (Shazeer 2020)
            return F.silu(hidden)


class FeedForward(nn.Module):
    """down(act(up x)), or down(act(gate x) * up x) for the gated kinds."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.kind = shape.feedforward
        self.up = Linear(shape.width, shape.inner_width, bias=shape.feedforward_bias)
        self.gate = Linear(shape.width, shape.inner_width, bias=shape.feedforward_bias) if shape.feedforward in GATED else None
        self.down = Linear(shape.inner_width, shape.width, bias=shape.feedforward_bias)
        self.dropout = shape.dropout

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        if self.gate is None:
            inner = activate(self.up(hidden_BTD), self.kind)
        else:
            inner = activate(self.gate(hidden_BTD), self.kind) * self.up(hidden_BTD)
        return F.dropout(self.down(inner), self.dropout, self.training)
