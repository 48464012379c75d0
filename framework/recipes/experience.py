"""What a policy has written and what became of it: the training data of reinforcement learning.

Tensors of whole replies flow in, micro-batches flow out, in an order that is a function of (seed, number). Must not know networks,
rewards or losses.

Shape legend: S replies of this process (in a micro-batch B), T tokens of prompt and reply, R tokens of a reply; padded on the right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from framework.batches import order


class Experience(NamedTuple):
    """Replies with everything that a policy loss needs.

    Attributes:
        ids_ST: prompt, then reply.
        starts_S: tokens of the prompt.
        mask_SR: true for the reply's tokens that are trained; all false for a reply that could not be judged.
        log_probs_SR: of the reply's tokens under the policy that wrote them, by the trainer's forward or as the engine drew them; nats.
        engine_log_probs_SR: the same as the engine computed them when it drew the tokens.
        reference_log_probs_SR: under the reference; 0 where no KL is wanted.
        values_SR: the critic's estimate before each token; 0 without a critic.
        advantages_SR: how much better than expected each token was.
        returns_SR: what the critic should have said.
    """

    ids_ST: Tensor
    starts_S: Tensor
    mask_SR: Tensor
    log_probs_SR: Tensor
    engine_log_probs_SR: Tensor
    reference_log_probs_SR: Tensor
    values_SR: Tensor
    advantages_SR: Tensor
    returns_SR: Tensor

    def select(self, rows: Sequence[int] | Tensor) -> Experience:
        """Some replies, without the padding that only others need."""
        rows = torch.as_tensor(rows)
        chosen = Experience(*(field[rows] for field in self))
        lengths = chosen.reply_lengths()
        longest_reply = max(1, int(lengths.max()))
        longest = max(2, int((chosen.starts_S + lengths).max()))
        return Experience(chosen.ids_ST[:, :longest], chosen.starts_S, *(field[:, :longest_reply] for field in chosen[2:]))

    def reply_lengths(self) -> Tensor:
        """Trained tokens up to each reply's last, [S]."""
        places_R = torch.arange(1, self.mask_SR.shape[1] + 1, device=self.mask_SR.device)
        return (self.mask_SR * places_R).amax(1)

    @property
    def targets_N(self) -> Tensor:
        """The trained tokens, one after the other."""
        rows_N, places_N = self.places()
        return self.ids_ST[rows_N, places_N + 1]

    @property
    def inputs_ST(self) -> Tensor:
        """What a network reads to predict them: the last token predicts nothing."""
        return self.ids_ST[:, :-1]

    def places(self) -> tuple[Tensor, Tensor]:
        """Row and place of the token before each trained one: where a network's hidden state predicts it; [N] each."""
        rows_N, within_N = self.mask_SR.nonzero(as_tuple=True)
        return rows_N, self.starts_S[rows_N] + within_N - 1

    def spread(self, values_N: Tensor) -> Tensor:
        """Values of the trained tokens at their places, [S, R]; 0 elsewhere."""
        values_SR = torch.zeros(self.mask_SR.shape, dtype=values_N.dtype, device=values_N.device)
        values_SR[self.mask_SR] = values_N
        return values_SR


class Schedule(NamedTuple):
    """How the replies of a rollout become micro-batches, on this process.

    Attributes:
        seed: chooses the order.
        replies: of a rollout, a multiple of batch_size.
        batch_size: replies in a micro-batch.
        epochs: how often each reply is trained on.
    """

    seed: int
    replies: int
    batch_size: int
    epochs: int

    @property
    def micro_batches(self) -> int:
        """Of a rollout."""
        return self.replies // self.batch_size * self.epochs

    def rows(self, number: int) -> list[int]:
        """The replies in micro-batch `number` of the run: each once an epoch, in an order that is each epoch's own."""
        indices = np.arange(number * self.batch_size, (number + 1) * self.batch_size, dtype=np.int64)
        visited, _ = order.windows(self.seed, indices, self.replies)
        return [int(row) for row in visited]


class Rollouts:
    """An endless loader of micro-batches; it is sized, because Lightning reads one batch ahead of loaders that are not.

    Args:
        schedule: how replies become micro-batches.
        first: number of the first micro-batch.
        write: gives the replies of a rollout, by its number.
    """

    LENGTH = 2**40

    def __init__(self, schedule: Schedule, first: int, write: Callable[[int], Experience]) -> None:
        self._schedule, self._first, self._write = schedule, first, write

    def __len__(self) -> int:
        return self.LENGTH

    def __iter__(self) -> Iterator[Experience]:
        for number in range(self._first, self.LENGTH):
            experience = self._write(number // self._schedule.micro_batches)
            yield experience.select(self._schedule.rows(number))

    def state_dict(self) -> dict[str, int]:
        """Nothing, which tells Lightning that the position is taken care of."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing either."""
