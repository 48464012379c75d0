"""Prompt or chat in, text out: a tokenizer around the engine.

Text flows in and out; ids flow to and from the engine. Must not know how a network computes or how a token is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Generator as Stream
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from framework.engine.engine import Engine
from framework.engine.request import Request
from framework.engine.speculation import DraftNetwork, PromptLookup
from framework.errors import CheckpointError, RequestError
from framework.formats import sources
from framework.generation.directory import adapter_directory
from framework.generation.reader import Chunk, Reader
from framework.generation.replies import pieces, texts
from framework.generation.settings import Settings
from framework.networks.base import Network
from framework.samplers.chain import SamplingOptions
from framework.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from framework.chat import ChatTemplate, Message
    from framework.engine.constraint import Constraint

MAX_NEW_TOKENS = 128  # where neither the caller nor the model's generation_config.json says


class Generator:
    """A network and its tokenizer, ready to write::

        generator = Generator.load("runs/pretrain")
        for chunk in generator.stream("def", temperature=0.8, max_new_tokens=50):
            print(chunk.text, end="")

    Not thread-safe, like its engine; `prepare` and `render` alone may be called from any thread.

    Args:
        engine: serves the requests.
        tokenizer: fits the engine's network.
        config: what a generation_config.json holds: defaults of the sampling options, `max_new_tokens`, `eos_token_id`.
        template: turns chats into prompts; None: `chat` cannot be used.

    Attributes:
        defaults: sampling options where a request has none.
        context_length: most tokens of a prompt and its reply together.
        vocab_size: of the network.
    """

    def __init__(
        self,
        engine: Engine | Network,
        tokenizer: Tokenizer,
        config: Mapping[str, Any] | None = None,
        template: ChatTemplate | None = None,
    ) -> None:
        config = config or {}
        self.engine = engine if isinstance(engine, Engine) else Engine(engine, vocab_size=tokenizer.vocab_size)
        self.tokenizer, self.template = tokenizer, template
        self.defaults = SamplingOptions.from_generation_config(config)
        self.max_new_tokens = (_numbers(config, "max_new_tokens") or [MAX_NEW_TOKENS])[0]
        self.context_length, self.vocab_size = self.engine.network.context_length, self.engine.vocab_size
        self._eos_ids = frozenset({tokenizer.eos_id, *_numbers(config, "eos_token_id")})

    @classmethod
    def load(
        cls,
        directory: Path | str,
        *,
        quantize: Literal["int8", "int4"] | None = None,
        dtype: Literal["float32", "bfloat16"] | None = None,
        device: str = "cpu",
        lookup: bool = False,
        draft: Path | str | None = None,
        adapter: Path | str | None = None,
        **engine: Any,
    ) -> Generator:
        """The model of a run or a model directory, or of another source (`formats.sources`).

        Args:
            directory: where it is.
            quantize: weights of the linear layers in so many bits, and less memory and time a token.
            dtype: type of the weights; None: as stored.
            device: where the network computes.
            lookup: guess what follows from what followed before (`engine.speculation.PromptLookup`); replies are the same.
            draft: directory of a smaller model with the same tokenizer, which guesses what follows; replies are the same.
            adapter: directory of a LoRA adapter of this model, ours or peft's, or the run that trained it; it is merged into the weights.
            engine: further options of the engine, by name: `max_running`, `cache_tokens`, `compile`, ...

        Raises:
            CheckpointError: a directory is missing or damaged, or the adapter is another model's.
            RequestError: options that do not go together, or a draft with another tokenizer.
        """
        import torch

        from framework.checkpoint import load

        model = sources.directory(directory)
        network, tokenizer, template = _load(model, None if adapter is None else adapter_directory(Path(adapter)))
        network = network.to(device=device, dtype=None if dtype is None else getattr(torch, dtype))
        if quantize is not None:
            from framework.networks.quantized import quantize as quantized

            network = quantized(network, quantize)
        config = model / "generation_config.json"
        try:
            generation = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else None
        except ValueError as broken:
            raise CheckpointError(f"{config} is no valid JSON ({broken}): repair or delete it") from None
        if lookup and draft is not None:
            raise RequestError("lookup and draft both guess what follows: give one of them")
        if lookup:
            engine["speculation"] = PromptLookup()
        if draft is not None:
            small, its_tokenizer = load(sources.directory(draft))
            if its_tokenizer.fingerprint != tokenizer.fingerprint:
                raise RequestError(f"the draft {draft} has another tokenizer than {directory}: its guesses would be other tokens")
            engine["speculation"] = DraftNetwork(small.to(device=device, dtype=None if dtype is None else getattr(torch, dtype)))
        return cls(Engine(network, vocab_size=tokenizer.vocab_size, **engine), tokenizer, generation, template)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end a reply of this model: the tokenizer's end of text, the generation_config.json's, the end of a chat's turn."""
        return self._eos_ids | (self.template.end_ids(self.tokenizer) if self.template else frozenset())

    def prepare(self, prompt: str | Sequence[int], settings: Settings) -> tuple[Request, Reader]:
        """What the engine is to be asked, and what makes text of its answer.

        Args:
            prompt: text (a BOS is put in front where the tokenizer has one; an empty text begins a new document), or ids as they are.
            settings: of the reply; what is None comes from the model's generation_config.json.

        Raises:
            RequestError: an option outside its range, a constraint that cannot be used, or a prompt that leaves no room for a reply.
        """
        if isinstance(prompt, str):
            # documents follow an end-of-document in training, so without a BOS that is what an empty prompt stands for
            prompt = self.tokenizer.encode_prompt(prompt) or [self.tokenizer.eos_id]
        stop_ids = frozenset(settings.stop_ids) | (frozenset() if settings.ignore_eos else self.stop_ids)
        self._check(settings)
        request = Request(
            prompt_ids=prompt,
            max_new_tokens=self.max_new_tokens if settings.max_new_tokens is None else settings.max_new_tokens,
            samplers=[*self._options(settings).chain(), *settings.samplers],
            stop_ids=stop_ids,
            min_new_tokens=settings.min_new_tokens,
            seed=settings.seed,
            n=settings.n,
            logprobs=settings.logprobs,
            prompt_logprobs=settings.prompt_logprobs,
            cache_key=settings.cache_key,
            num_beams=settings.num_beams,
            length_penalty=settings.length_penalty,
            early_stopping=settings.early_stopping,
        )
        request.num_new_tokens(self.vocab_size, self.context_length)
        reader = Reader(self.tokenizer, request, settings.stop, settings.include_stop)
        constraint = self._constraint(settings, stop_ids)  # last: only this costs anything
        return (request if constraint is None else replace(request, constraint=constraint)), reader

    def render(self, messages: Sequence[Message]) -> list[int]:
        """The prompt that asks for the next reply of a chat. Raises RequestError for a model without a chat template."""
        if self.template is None:
            raise RequestError("this model has no chat template (no chat_template in its tokenizer_config.json): give it a plain prompt")
        return self.template.render(messages, self.tokenizer)

    def stream(self, prompt: str | Sequence[int], settings: Settings | None = None, **changes: Any) -> Stream[Chunk, None, None]:
        """The reply to a prompt, piece by piece, without the prompt; closing the iterator cancels it.

        Args:
            prompt, settings: as `prepare` takes them.
            changes: fields of `Settings` by name, over those of `settings`.

        Raises:
            RequestError: as `prepare`, at once.
        """
        return self._run(*self.prepare(prompt, replace(settings or Settings(), **changes)))

    def chat(self, messages: Sequence[Message], settings: Settings | None = None, **changes: Any) -> Stream[Chunk, None, None]:
        """The next reply of a chat, like `stream`."""
        return self.stream(self.render(messages), settings, **changes)

    def generate(self, prompt: str | Sequence[int], settings: Settings | None = None, **changes: Any) -> str:
        """The whole reply as one string, the first if several were asked for; the arguments of `stream`."""
        return "".join(chunk.text for chunk in self.stream(prompt, settings, **changes) if chunk.index == 0)

    def batch(
        self, prompts: Iterable[str | Sequence[int]], settings: Settings | None = None, **changes: Any
    ) -> Iterator[tuple[int, list[str] | Exception]]:
        """The replies to many prompts, side by side through the engine: (number of the prompt, its n texts), as they finish.

        A prompt that cannot be served has its error in place of texts, and disturbs no other. With a seed, reply j of prompt i draws
        with seed + i * n + j, so that equal prompts get different replies. Not to be mixed with calls of the engine's own `step`.

        Args:
            prompts: taken as room comes up; may be endless.
            settings, changes: as `stream` takes them.
        """
        settings = replace(settings or Settings(), **changes)
        return texts(pieces(self, prompts, settings), settings.n)

    def _run(self, request: Request, reader: Reader) -> Stream[Chunk, None, None]:
        with closing(self.engine.stream(request)) as events:
            for event in events:
                chunk = reader.feed(event)
                if chunk is not None:
                    yield chunk
                    if chunk.finish_reason and not event.finish_reason and not reader.finished:
                        self.engine.cancel(event.request_id, event.index)
                if reader.finished:
                    return

    def _options(self, settings: Settings) -> SamplingOptions:
        """The sampling options of a reply; a beam search draws nothing, so those that shape a draw are out of it."""
        options = settings.sampling_options.over(self.defaults)
        return options if settings.num_beams == 1 else replace(options, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0)

    def _check(self, settings: Settings) -> None:
        """What neither the samplers nor the request can know: the vocabulary's size."""
        if wrong := [token for token in settings.logit_bias or () if not 0 <= token < self.vocab_size]:
            raise RequestError(f"logit_bias names token {wrong[0]}, and the vocabulary has {self.vocab_size}")
        for name in ("logprobs", "prompt_logprobs"):
            if (getattr(settings, name) or 0) > self.vocab_size:
                raise RequestError(f"{name} is {getattr(settings, name)}, and the vocabulary has only {self.vocab_size} tokens")

    def _constraint(self, settings: Settings, stop_ids: frozenset[int]) -> Constraint | None:
        if settings.choices is None and settings.json_schema is None and settings.regex is None:
            return None
        from framework.constraints import Choice, JSONSchema, Regex

        if not stop_ids:
            raise RequestError("ignore_eos leaves a reply that is held to choices, json_schema or regex no way to end: leave it out")
        arguments = self.tokenizer, stop_ids, self.vocab_size
        if settings.choices is not None:
            return Choice(settings.choices, *arguments)
        if settings.json_schema is not None:
            return JSONSchema(settings.json_schema, *arguments)
        assert settings.regex is not None
        return Regex(settings.regex, *arguments)


def _load(model: Path, adapter: Path | None) -> tuple[Network, Tokenizer, ChatTemplate | None]:
    """A model directory's network, tokenizer and chat template, with an adapter merged into the one and in the place of the other."""
    from framework.chat import ChatTemplate
    from framework.checkpoint import load

    network, tokenizer = load(model)
    template = ChatTemplate.load(model)
    if adapter is not None:
        from framework.formats.peft import load_adapter
        from framework.tokenizers.pretrained import pretrained

        adapted = load_adapter(network, adapter)
        network, tokenizer = adapted.merged(), pretrained(adapter) if adapted.new_ids else tokenizer
        template = ChatTemplate.load(adapter) or template
    return network, tokenizer, template


def _numbers(config: Mapping[str, Any], name: str) -> list[int]:
    """What a generation_config.json has under a name: one whole number, several or none."""
    value = config.get(name)
    numbers = [] if value is None else value if isinstance(value, list) else [value]
    if any(type(number) is not int for number in numbers):
        raise CheckpointError(f"generation_config.json has {name}: {value!r}, which is no whole number: correct or delete it")
    return numbers
