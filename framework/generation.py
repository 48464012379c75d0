"""Prompt in, text out: a tokenizer around the engine, with stop strings and streaming.

Text flows in and out; ids flow to and from the engine. Must not know how a network computes or how a token is drawn.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Generator as EventStream
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from framework.engine.engine import Engine
from framework.engine.request import Event, FinishReason, Request
from framework.errors import CheckpointError, RequestError
from framework.networks.base import Network
from framework.samplers.base import Sampler
from framework.samplers.chain import SamplingOptions
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.streaming import StreamDecoder

MAX_NEW_TOKENS = 128  # where neither the caller nor the model's generation_config.json says


class Chunk(NamedTuple):
    """A piece of a reply: whole characters only; the last one has a reason."""

    text: str
    finish_reason: FinishReason | None


class Generator:
    """A network and its tokenizer, ready to write.

    Args:
        network, tokenizer: as they are.
        config: what a generation_config.json holds: defaults of the sampling options, `max_new_tokens`, `eos_token_id`.
    """

    def __init__(self, network: Network, tokenizer: Tokenizer, config: Mapping[str, Any] | None = None) -> None:
        config = config or {}
        self.engine, self.tokenizer = Engine(network), tokenizer
        self.defaults = SamplingOptions.from_generation_config(config)
        self.max_new_tokens: int = config.get("max_new_tokens") or MAX_NEW_TOKENS
        self.stop_ids = frozenset({tokenizer.eos_id, *_ids(config.get("eos_token_id"))})

    @classmethod
    def load(cls, directory: Path) -> Generator:
        """The model of a model directory, or of a run directory. Raises CheckpointError for one that is missing or damaged."""
        from framework.checkpoint import load

        model = model_directory(directory)
        network, tokenizer = load(model)
        config = model / "generation_config.json"
        try:
            return cls(network, tokenizer, json.loads(config.read_text(encoding="utf-8")) if config.is_file() else None)
        except json.JSONDecodeError as broken:
            raise CheckpointError(f"{config} is no valid JSON ({broken}): repair or delete it") from None

    def stream(
        self,
        prompt: str,
        options: SamplingOptions | None = None,
        *,
        max_new_tokens: int | None = None,
        samplers: Sequence[Sampler] = (),
        stop: Sequence[str] = (),
        seed: int | None = None,
    ) -> Iterator[Chunk]:
        """The reply to a prompt, piece by piece, without the prompt.

        Args:
            prompt: an empty one begins a new document.
            options: temperature and the like; what is None comes from the model's generation_config.json.
            max_new_tokens: most tokens of the reply; the network's context may end it earlier.
            samplers: applied after the options' own.
            stop: the reply ends before the first of these strings to be complete; nothing of it is given out.
            seed: the same seed gives the same reply.

        Raises:
            RequestError: an option outside its range, or a prompt that leaves no room for a reply.
        """
        request = Request(
            # documents follow an end-of-document in training, so without a BOS that is what an empty prompt stands for
            prompt_ids=self.tokenizer.encode_prompt(prompt) or [self.tokenizer.eos_id],
            max_new_tokens=self.max_new_tokens if max_new_tokens is None else max_new_tokens,
            samplers=[*(options or SamplingOptions()).over(self.defaults).samplers(), *samplers],
            stop_ids=self.stop_ids,
            seed=seed,
        )
        stops = StopStrings(stop)
        return self._read(self.engine.stream(request), request.stop_ids, stops)

    def generate(self, prompt: str, options: SamplingOptions | None = None, **settings: Any) -> str:
        """The whole reply as one string; the arguments of `stream`."""
        return "".join(chunk.text for chunk in self.stream(prompt, options, **settings))

    def _read(self, stream: EventStream[Event, None, None], stop_ids: Collection[int], stops: StopStrings) -> Iterator[Chunk]:
        decoder = StreamDecoder(self.tokenizer)
        with closing(stream) as events:
            for event in events:
                text = "" if event.token_id in stop_ids else decoder.feed([event.token_id])
                text = stops.push(text + decoder.flush() if event.finish_reason else text)
                if stops.found:
                    yield Chunk(text, "stop")
                    return
                if event.finish_reason:
                    text += stops.flush()
                if text or event.finish_reason:
                    yield Chunk(text, event.finish_reason)


class StopStrings:
    """Cuts a stream of text before the first stop string to be complete; holds back only what can still become one.

    How the text is cut into pieces changes nothing. Of two strings that end at the same place the longer one counts.

    Args:
        stops: none of them empty.
    """

    def __init__(self, stops: Collection[str]) -> None:
        if "" in stops:
            raise RequestError("a stop string is empty: it would end every reply before its first character")
        self.stops = tuple(stops)
        self.found = False
        self._held = ""

    def push(self, text: str) -> str:
        """What is certain not to belong to a stop string, after this further text."""
        self._held += text
        starts = [(start + len(stop), start) for stop in self.stops if (start := self._held.find(stop)) >= 0]
        self.found = self.found or bool(starts)
        cut = min(starts)[1] if starts else len(self._held) - self._undecided()
        certain, self._held = self._held[:cut], "" if starts else self._held[cut:]
        return certain

    def flush(self) -> str:
        """What was held back, when the text has ended."""
        held, self._held = self._held, ""
        return held

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self.stops), default=0)
        lengths = range(min(longest, len(self._held)), 0, -1)
        return next((length for length in lengths if any(stop.startswith(self._held[-length:]) for stop in self.stops)), 0)


def model_directory(directory: Path) -> Path:
    """The model directory that `directory` is or, for a run, holds. Raises CheckpointError with the nearest name if there is none."""
    if any((directory / name).is_file() for name in ("framework.json", "config.json")):
        return directory
    if directory.is_dir():
        return directory / "model"  # loading says so if it is not there
    siblings = [place.name for place in directory.parent.iterdir() if place.is_dir()] if directory.parent.is_dir() else []
    near = difflib.get_close_matches(directory.name, siblings, n=1)
    hint = f"; did you mean {directory.parent / near[0]}?" if near else ": give a run or model directory"
    raise CheckpointError(f"there is no directory {directory}{hint}")


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else value
