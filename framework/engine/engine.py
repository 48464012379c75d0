"""The generation engine: requests of ids go in, events come out of each round.

A round: the batcher says which replies the network works on, the runner runs it on their new tokens, the chooser draws the next
token of every reply whose tokens it has then seen. Knows no text; must not know where requests come from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from framework.engine.batcher import Batcher, Row
from framework.engine.beams import Beams
from framework.engine.blocks import BlockPool
from framework.engine.chooser import Choice, Chooser, Draw
from framework.engine.reply import Reply, replies_of
from framework.engine.request import Event, Request
from framework.engine.runner import Runner
from framework.engine.speculation import Speculation
from framework.errors import RequestError
from framework.networks.base import Network
from framework.networks.cache import BLOCK_TOKENS
from framework.registry import Registry, registry

FAMILIES = ("tokenizers", "optimizers", "schedulers", "samplers", "recipes")
MAX_TOKENS_OF_A_REPLY = 2048  # the default cache has room for so many in every place at once


class Statistics(NamedTuple):
    """What the engine does now, and counters since its start (tokens)."""

    running: int
    waiting: int
    cache_tokens_used: int
    cache_tokens: int
    prefix_tokens_hit: int
    preemptions: int
    prompt_tokens: int
    generated_tokens: int
    proposed_tokens: int
    accepted_tokens: int


class Engine:
    """Serves any number of requests on one network; a request's reply never depends on its neighbours::

        engine = Engine(network)
        for event in engine.stream(Request(prompt_ids=[1, 2, 3], max_new_tokens=20)):
            print(event.token_id)

    Either `add` requests and call `step` until all have finished, or `stream` them; both may be mixed. One thread owns an engine.
    When the network's weights change, what was computed with the old ones is dropped, and replies go on with the new ones. What else of
    it changes (a module, the adapter in use) counts from the next request on, a hook at once.

    Args:
        network: is used as it is, on the device where it is, in evaluation mode during a step, and never changed.
        max_running: most replies that run together; further ones wait.
        cache_tokens: size of the cache. None: the network's context (at most 2,048 tokens) for each running reply.
        chunk_tokens: most prompt tokens of a round, so that long prompts do not keep running replies waiting.
        prefix_cache: whether prompts that begin alike are computed once.
        speculation: how further tokens are guessed, to be verified together; None: not at all. Replies are the same.
        compile: compile the decoding of one token a reply with torch.compile, on a GPU into CUDA graphs. Minutes at first; on a CPU
            our own kernels, which it replaces, are usually faster.
        vocab_size: ids from here on are never drawn: a network may have rows for ids that its tokenizer does not know.
    """

    registries: ClassVar[Mapping[str, Registry]] = MappingProxyType({name: registry(f"framework.{name}") for name in FAMILIES})

    def __init__(
        self,
        network: Network,
        *,
        max_running: int = 32,
        cache_tokens: int | None = None,
        chunk_tokens: int = 256,
        prefix_cache: bool = True,
        speculation: Speculation | None = None,
        compile: bool = False,
        vocab_size: int | None = None,
    ) -> None:
        context = network.context_length
        tokens = max(context, max_running * min(context, MAX_TOKENS_OF_A_REPLY)) if cache_tokens is None else cache_tokens
        for name, value in {"max_running": max_running, "chunk_tokens": chunk_tokens, "cache_tokens": tokens}.items():
            if value < 1:
                raise RequestError(f"{name} is {value} and must be at least 1")
        self.vocab_size = min(network.vocab_size, vocab_size or network.vocab_size)
        self.network, self.speculation, self._max_running = network, speculation, max_running
        self._pool = BlockPool(-(-tokens // BLOCK_TOKENS), BLOCK_TOKENS)
        self._batcher = Batcher(self._pool, max_running, chunk_tokens, prefix_cache)
        self._runner = Runner(network, max_running, self._pool.num_blocks, compile, self.vocab_size)
        self._chooser = Chooser()
        if speculation is not None:
            speculation.begin(max_running, self._pool.num_blocks, self.vocab_size)
        self._active: dict[int, list[Reply]] = {}  # unfinished replies of each request
        self._forks: dict[int, list[Reply]] = {}  # replies that begin when the request's first one has read the prompt
        self._beams: dict[int, Beams] = {}
        self._streamed: dict[int, deque[Event]] = {}
        self._events: deque[Event] = deque()  # of requests that are not streamed, until `step` hands them out
        self._next_id = self._num_prompt = self._num_generated = self._num_proposed = self._num_accepted = 0

    @property
    def num_active(self) -> int:
        """Requests that have not finished."""
        return len(self._active)

    @property
    def statistics(self) -> Statistics:
        """What the engine does now, and counters since its start."""
        batcher, size = self._batcher, self._pool.block_tokens
        return Statistics(
            running=len(batcher.running),
            waiting=len(batcher.waiting) + sum(map(len, self._forks.values())),
            cache_tokens_used=self._pool.num_used * size,
            cache_tokens=self._pool.num_blocks * size,
            prefix_tokens_hit=batcher.num_prefix_tokens,
            preemptions=batcher.num_preemptions,
            prompt_tokens=self._num_prompt,
            generated_tokens=self._num_generated,
            proposed_tokens=self._num_proposed,
            accepted_tokens=self._num_accepted,
        )

    def add(self, request: Request) -> int:
        """Take in a request; its id, which its events carry. Raises RequestError for one that does not fit the network or the cache."""
        num_new_tokens = request.num_new_tokens(self.vocab_size, self.network.context_length)
        for sampler in request.samplers:
            sampler.check(self.vocab_size)
        if (longest := len(request.prompt_ids) + num_new_tokens) > self._pool.num_blocks * self._pool.block_tokens:
            raise RequestError(
                f"prompt and reply can have {longest} tokens and the cache holds {self._pool.num_blocks * self._pool.block_tokens}: "
                "lower max_new_tokens or raise cache_tokens"
            )
        if request.num_beams > self._max_running:
            raise RequestError(
                f"num_beams is {request.num_beams} and this engine runs {self._max_running} replies at a time: raise max_running"
            )
        request_id, self._next_id = self._next_id, self._next_id + 1
        replies = replies_of(request_id, request, num_new_tokens)
        self._active[request_id] = replies
        if request.num_beams > 1:
            self._beams[request_id] = Beams(replies[0])
        elif replies[1:]:
            self._forks[request_id] = replies[1:]
        self._batcher.add(replies[:1])
        self._num_prompt += len(request.prompt_ids)
        self._runner.look_again()
        return request_id

    def step(self) -> list[Event]:
        """Run a round; the events of requests that are not streamed.

        A request that fails (a sampler that raises, logits that are not finite) ends with an event that carries the error, and costs
        no other request anything.
        """
        self._round()
        events = list(self._events)
        self._events.clear()
        return events

    def stream(self, request: Request) -> Generator[Event, None, None]:
        """Add a request and yield its events as they come, stepping the engine as needed; closing the iterator cancels it.

        Raises what made the request fail.
        """
        request_id = self.add(request)
        self._streamed[request_id] = deque()
        return self._drain(request_id)

    def cancel(self, request_id: int, index: int | None = None) -> None:
        """Drop a request, or one reply of it, and its events; nothing happens if it has finished."""
        for reply in list(self._active.get(request_id, ())):
            if index in (None, reply.index):
                self._end(reply)
        if index is None:
            self._streamed.pop(request_id, None)
        for events in (self._events, self._streamed.get(request_id, deque())):
            kept = [event for event in events if event.request_id != request_id or index not in (None, event.index)]
            events.clear()
            events.extend(kept)

    def _drain(self, request_id: int) -> Generator[Event, None, None]:
        try:
            while (events := self._streamed.get(request_id)) is not None and (events or request_id in self._active):
                if not events:
                    self._round()
                    continue
                event = events.popleft()
                if event.error is not None:
                    raise event.error
                yield event
        finally:
            self.cancel(request_id)

    @torch.inference_mode()
    def _round(self) -> None:
        if self._runner.has_new_weights():
            self._batcher.preempt_all()
        if self.speculation is not None:
            self._propose()
        rows = self._batcher.plan()
        if not rows:
            return
        try:
            hidden_TD = self._runner.forward(rows)
            draws, places = self._draws(rows, hidden_TD)
            if draws and places != list(range(len(hidden_TD))):  # gathering takes as long as a dozen Python lines
                hidden_TD = hidden_TD[places]
            logits_BV = self._runner.logits(hidden_TD) if draws else None
        except Exception as failure:  # the network's own, so every row's
            for row in rows:
                self._fail(row.reply, failure)
            return
        if logits_BV is None:
            return
        searching = [row for row, each in enumerate(draws) if each.reply.request.num_beams > 1]
        if searching:
            self._search([draws[row] for row in searching], logits_BV[searching])
            drawing = [row for row, each in enumerate(draws) if each.reply.request.num_beams == 1]
            draws, logits_BV = [draws[row] for row in drawing], logits_BV[drawing]
        if draws:
            self._take(draws, self._chooser.choose(draws, logits_BV))

    def _draws(self, rows: Sequence[Row], hidden_TD: Tensor) -> tuple[list[Draw], list[int]]:
        """What can be drawn after a forward, and the place of each one's hidden state."""
        draws: list[Draw] = []
        places: list[int] = []
        start = 0
        for row in rows:
            reply, pending = row.reply, row.reply.num_pending
            if reply.request.prompt_logprobs is not None and not reply.num_drawn:
                self._score_prompt(row, hidden_TD[start : start + row.num_tokens])
            self._batcher.advance(reply, min(row.num_tokens, pending))
            if row.num_tokens >= pending:
                last = start + pending - 1
                draws += [Draw(reply, ahead) for ahead in range(row.num_tokens - pending + 1)]
                places += range(last, start + row.num_tokens)
                children = self._fork(reply)
                draws += [Draw(child, 0) for child in children]
                places += [last] * len(children)
            start += row.num_tokens
        return draws, places

    def _score_prompt(self, row: Row, hidden_TD: Tensor) -> None:
        reply = row.reply
        targets = reply.tokens[reply.num_held + 1 : reply.num_held + row.num_tokens + 1]
        if targets:
            logits_TV = self._runner.logits(hidden_TD[: len(targets)])
            scores = self._chooser.score(logits_TV, targets, reply.request.prompt_logprobs or 0)
            # a reply that has to read its prompt again, or shares the list with the one it forked from, has scores already
            reply.prompt_logprobs = reply.prompt_logprobs[: reply.num_held] + scores

    def _fork(self, parent: Reply) -> list[Reply]:
        """The other replies to a prompt that has just been read: those that run at once. The rest waits, first in line."""
        children = self._forks.pop(parent.request_id, [])
        running = []
        for child in children:
            child.prompt_logprobs = parent.prompt_logprobs
            if not self._start_beside(parent, child):
                break
            running.append(child)
        for child in reversed(children[len(running) :]):
            self._batcher.come_back(child)
        return running

    def _start_beside(self, parent: Reply, child: Reply) -> bool:
        """Let a child run on what its parent has computed; false without room for it."""
        copied = self._batcher.fork(parent, child)
        if copied is not None and copied != (0, 0):
            self._runner.copy_block(*copied)
        return copied is not None

    def _take(self, draws: Sequence[Draw], choices: Sequence[Choice | Exception]) -> None:
        """Append what was drawn; of a reply with proposals, as far as these came true, and the token after."""
        refuted: Reply | None = None
        for draw, choice in zip(draws, choices):
            reply = draw.reply
            if reply is refuted or reply.place < 0:  # the proposal before was another token, or ended the reply
                continue
            refuted = None
            if isinstance(choice, Exception):
                self._fail(reply, choice)
                continue
            proposal = reply.proposals[draw.ahead] if draw.ahead < len(reply.proposals) else None
            self._emit(reply, choice)
            if choice.token == proposal and reply.place >= 0:
                self._batcher.advance(reply, 1)
                self._num_accepted += 1
            elif reply.place >= 0:
                reply.proposals.clear()
                refuted = reply

    def _search(self, draws: Sequence[Draw], logits_BV: Tensor) -> None:
        """Beam searches go on as soon as all their beams have been computed."""
        for each, logprobs_V in zip(draws, self._chooser.process(draws, logits_BV)):
            beams = self._beams.get(each.reply.request_id)  # gone if another beam of the request has failed
            if isinstance(logprobs_V, Exception):
                self._fail(each.reply, logprobs_V)
            elif beams is not None and beams.collect(each.reply, logprobs_V):
                self._regroup(beams)

    def _regroup(self, beams: Beams) -> None:
        """Copy, keep and drop beams as the search wants it; hand out the replies when it is over."""
        before, continuations = list(beams.scores), beams.step()
        if not continuations:
            self._hand_out(before[0].request_id, beams)
        parents = {continuation.parent for continuation in continuations}
        for beam in before:
            if beam not in parents:
                self._end(beam)
        grown: list[Reply] = []
        for parent, _, _ in continuations:
            beam = parent
            if beam in grown:  # a parent's further continuations need replies of their own
                beam = replace(parent, tokens=list(parent.tokens), proposals=[], num_held=0, blocks=[], place=-1)
                self._active[parent.request_id].append(beam)
                self._start_beside(parent, beam)
            grown.append(beam)
        for beam, (_, token, score) in zip(grown, continuations):
            beam.append(token)
            self._batcher.come_back(beam)
            beams.went_on(beam, score)

    def _hand_out(self, request_id: int, beams: Beams) -> None:
        """The events of a search's n best replies."""
        events = self._streamed.get(request_id, self._events)
        for index, ended in enumerate(beams.ended[: beams.request.n]):
            *before, last = ended.tokens
            events.extend(Event(request_id, token, None, None, index) for token in before)
            events.append(Event(request_id, last, None, ended.reason, index))
            self._num_generated += len(ended.tokens)

    def _emit(self, reply: Reply, choice: Choice) -> None:
        reason = reply.append(choice.token)
        scores = tuple(reply.prompt_logprobs) if reply.request.prompt_logprobs is not None and reply.num_drawn == 1 else None
        event = Event(reply.request_id, choice.token, choice.logprob, reason, reply.index, choice.top_logprobs, scores)
        self._streamed.get(reply.request_id, self._events).append(event)
        self._num_generated += 1
        if reason is not None:
            self._end(reply)

    def _fail(self, reply: Reply, failure: Exception) -> None:
        """End a reply's whole request with an error; nothing happens if that was done for another of its replies."""
        replies = list(self._active.get(reply.request_id, ()))
        if replies:
            event = Event(reply.request_id, -1, None, "error", reply.index, error=failure)
            self._streamed.get(reply.request_id, self._events).append(event)
            self._forks.pop(reply.request_id, None)
            for each in replies:
                self._end(each)

    def _end(self, reply: Reply) -> None:
        self._batcher.finish(reply)
        unfinished = self._active[reply.request_id]
        unfinished.remove(reply)
        waiting = self._forks.get(reply.request_id, [])
        if reply in waiting:
            waiting.remove(reply)
        elif waiting:  # the one that would have read the prompt for them is gone
            self._batcher.add(self._forks.pop(reply.request_id))
        if not unfinished:
            del self._active[reply.request_id]
            self._beams.pop(reply.request_id, None)
        if not self._active:
            self._runner.forget()

    def _propose(self) -> None:
        assert self.speculation is not None
        rooms: dict[Reply, int] = {}
        for reply in self._batcher.running:
            wanted = min(self.speculation.num_tokens, reply.num_new_tokens - reply.num_drawn - 1)
            if reply.num_pending == 1 and reply.request.num_beams == 1 and (room := self._batcher.reserve(reply, wanted)):
                rooms[reply] = room
        self.speculation.propose(rooms, self._chooser)
        self._num_proposed += sum(len(reply.proposals) for reply in rooms)
