"""A network that gives a number instead of a next token: the reward of a reply, or what is still to come of one.

Ids flow in, hidden states and numbers flow out. Must not know losses, preferences or rollouts.

Shape legend: B batch, T time, N some of the tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from framework.networks.base import Network, Role
from framework.networks.parts import as_part
from framework.networks.wrapper import Wrapper


class ScalarHead(Wrapper):
    """A network with a linear layer of one output on its hidden states.

    The score of a sequence is one number of those at its tokens, as mean 0 and deviation 1 where `normalise` has been told.

    Args:
        base: the network; a reward model begins as the model that its replies come from. One that gives scores goes on with its head.
        vocab_size: of the base; null: the tokenizer's.
        context_length: of the base; null: the data's.
        pooling: which: last: the number at the last token (Ouyang et al. 2022); mean: the mean over the reply's tokens, each of which is
            then a judge of what came so far (Cobbe et al. 2021 train verifiers so): it learns from few pairs where errors are local.
        zero: begin with a head of zeros; false: with deviation 1 / sqrt(D + 1) (Stiennon et al. 2020), bias 0.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        base: Callable[[], Network],
        vocab_size: int | None = None,
        context_length: int | None = None,
        pooling: Literal["last", "mean"] = "last",
        zero: bool = False,
    ) -> None:
        super().__init__()
        self.pooling: Literal["last", "mean"] = pooling
        made: Network = base(vocab_size=vocab_size, context_length=context_length)  # type: ignore[call-arg]
        self.base: Network = made.base if isinstance(made, ScalarHead) else made
        self.vocab_size, self.context_length = self.base.vocab_size, self.base.context_length
        weight_VD = self.base.head_weight_VD
        width = weight_VD.shape[1]
        self.head = nn.Linear(width, 1, device=weight_VD.device, dtype=weight_VD.dtype)
        nn.init.normal_(self.head.weight, std=0.0 if zero else (width + 1) ** -0.5)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mean", torch.zeros((), dtype=torch.float32, device=weight_VD.device))
        self.register_buffer("deviation", torch.ones((), dtype=torch.float32, device=weight_VD.device))
        self._freeze_output_matrix()
        if isinstance(made, ScalarHead):
            self._go_on_from(made)

    def _go_on_from(self, trained: ScalarHead) -> None:
        """Take over a head that is trained already, and what it normalises scores with."""
        if trained.pooling != self.pooling:
            raise ValueError(f"its base is a reward model with the pooling {trained.pooling!r}, not {self.pooling!r}: give it that")
        self.head, self.mean, self.deviation = trained.head, trained.mean, trained.deviation

    def _freeze_output_matrix(self) -> None:
        """An output matrix of its own has no part in the numbers: it gets no gradient, and is no optimizer's."""
        tables = {id(module.weight) for module in self.base.modules() if isinstance(module, nn.Embedding)}
        place = self.base.head_weight_VD.data_ptr()
        for parameter in self.base.parameters():
            if id(parameter) not in tables and parameter.ndim == 2 and parameter.data_ptr() == place and place:
                parameter.requires_grad_(False)

    @property
    def inner(self) -> Network:
        return self.base

    def values(self, hidden_BTD: Tensor) -> Tensor:
        """The head's numbers, [B, T] (any leading shape), as they are; in fp32 or wider."""
        values_BT: Tensor = self.head(hidden_BTD)[..., 0]
        return values_BT.to(torch.promote_types(values_BT.dtype, torch.float32))

    def pooled_values(self, ids_BT: Tensor, lengths_B: Tensor, starts_B: Tensor) -> Tensor:
        """One number for each sequence, [B], as it is; padding on the right is not looked at.

        Args:
            ids_BT: the sequences.
            lengths_B: tokens of each.
            starts_B: tokens before each one's reply.
        """
        if self.pooling == "last":
            rows_B = torch.arange(len(ids_BT), device=ids_BT.device)
            return self.values(self.hidden_at((rows_B, lengths_B - 1), ids_BT))
        columns_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        of_reply_BT = (columns_T >= starts_B[:, None]) & (columns_T < lengths_B[:, None])
        rows_N, columns_N = of_reply_BT.nonzero(as_tuple=True)
        values_N = self.values(self.hidden_at((rows_N, columns_N), ids_BT))
        values_BT = values_N.new_zeros(ids_BT.shape).index_put((rows_N, columns_N), values_N)
        return values_BT.sum(1) / of_reply_BT.sum(1)

    def scores(self, ids_BT: Tensor, lengths_B: Tensor, starts_B: Tensor) -> Tensor:
        """Normalised scores of sequences, [B]; arguments as of `pooled_values`."""
        return (self.pooled_values(ids_BT, lengths_B, starts_B) - self.mean) / self.deviation

    def normalise(self, mean: float, deviation: float) -> None:
        """Give scores of this mean and deviation the mean 0 and the deviation 1; kept with the weights."""
        if not deviation > 0:
            raise ValueError(f"the scores' deviation is {deviation}; it must be over 0")
        self.mean.fill_(mean)
        self.deviation.fill_(deviation)

    @property
    def init_args(self) -> dict[str, Any]:
        return {"base": as_part(self.base), "pooling": self.pooling}

    def roles(self) -> dict[str, Role]:
        return {**{f"base.{name}": role for name, role in self.base.roles().items()}, "head.weight": "matrix", "head.bias": "vector"}

    def num_parameters(self) -> int:
        return self.base.num_parameters() + sum(parameter.numel() for parameter in self.head.parameters())

    def flops_per_token(self, length: int) -> int:
        return self.base.flops_per_token(length)
