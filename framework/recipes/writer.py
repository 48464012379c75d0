"""The policy writes: prompts become replies through the generation engine, on the weights as they are at this moment.

Ids flow in, ids and log-probabilities flow out. Must not know rewards or losses.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import NamedTuple

from tqdm import tqdm

from framework.engine.engine import Engine
from framework.engine.request import Request
from framework.errors import UserError
from framework.networks.base import Network
from framework.samplers import Temperature


class Reply(NamedTuple):
    """A reply as the engine drew it.

    Attributes:
        ids: with the token that ended it, if one did.
        log_probs: of the tokens, of the distribution they were drawn from; nats.
        finished: whether it ended by itself; false: at its greatest length.
    """

    ids: list[int]
    log_probs: list[float]
    finished: bool


class RolloutFailed(UserError):
    """The engine could not write a reply."""

    exit_code = 1


class Writer:
    """Writes replies with a network.

    Args:
        network: read at every call, so that its weights may change in between.
        end_ids: what ends a reply.
        max_new_tokens: its greatest length.
        temperature: of the draws; nothing else shapes the distribution, so that what is trained is what was drawn from.
        max_running: replies written side by side.
        vocab_size: ids from here on are never drawn.
        cache_tokens: that the cache has room for; None: the engine's default.
    """

    def __init__(
        self,
        network: Network,
        end_ids: Collection[int],
        max_new_tokens: int,
        temperature: float,
        max_running: int,
        vocab_size: int,
        cache_tokens: int | None = None,
    ) -> None:
        self._cache_tokens = cache_tokens
        self._network, self._max_running, self._vocab_size = network, max_running, vocab_size
        self._end_ids, self._max_new_tokens, self._temperature = frozenset(end_ids), max_new_tokens, temperature

    @cached_property
    def _engine(self) -> Engine:
        """Made when it is first used: its memory is where the network is by then, and of its type."""
        return Engine(self._network, max_running=self._max_running, cache_tokens=self._cache_tokens, vocab_size=self._vocab_size)

    def write(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], replies: int = 1, greedy: bool = False, show_progress: bool = False
    ) -> list[list[Reply]]:
        """Replies to each prompt.

        Args:
            prompts: ids.
            seeds: of each prompt's draws; its reply number i draws with the seed plus i.
            replies: to each prompt, from one reading of it.
            greedy: the likeliest token each time, instead of draws.
            show_progress: a bar on stderr if it takes longer.
        """
        samplers = [Temperature(0.0 if greedy else self._temperature)]
        numbers: dict[int, int] = {}
        written = [[_Draft() for _ in range(replies)] for _ in prompts]
        for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            request = Request(
                prompt_ids=prompt,
                max_new_tokens=self._max_new_tokens,
                samplers=samplers,
                stop_ids=self._end_ids,
                seed=seed,
                n=replies,
                logprobs=0,
                processed_logprobs=not greedy,
            )
            numbers[self._engine.add(request)] = number
        with tqdm(total=len(prompts) * replies, desc="rollout", unit="reply", leave=False, delay=2.0, disable=not show_progress) as bar:
            while self._engine.num_active:
                for event in self._engine.step():
                    if event.error is not None:
                        raise RolloutFailed(f"a reply could not be written: {event.error}")
                    draft = written[numbers[event.request_id]][event.index]
                    draft.ids.append(event.token_id)
                    draft.log_probs.append(event.logprob or 0.0)
                    if event.finish_reason is not None:
                        draft.finished = event.finish_reason == "stop"
                        bar.update()
        return [[Reply(draft.ids, draft.log_probs, draft.finished) for draft in drafts] for drafts in written]


class _Draft:
    """A reply in the making."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.log_probs: list[float] = []
        self.finished = False
