"""A model as lm-eval knows one: its requests of text become ours, through the network's forward and the engine.

Requests flow in, log-likelihoods and replies flow out, in their order. Must not know lm-eval's tasks, nor import lm-eval: it may be absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from framework.datasets.base import Message
from framework.errors import ConfigError, RequestError
from framework.tasks.base import Progress, silent
from framework.tasks.likelihood import Stretch, continuation, first_id, likelihoods, windows

if TYPE_CHECKING:
    from framework.generation import Generator, Settings

REPLY_TOKENS = 256  # where a task does not say, as in lm-eval
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # all the same to lm-eval
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class Model:
    """The methods of lm-eval's `LM`, for a generator.

    A text is encoded as everywhere here, BOS included where the tokenizer has one; what lm-eval's own models do, but for a text that is
    scored as a whole: theirs score a BOS too.

    Args:
        generator: the model.
        batch_tokens: tokens that the network reads together.
        progress: told as requests are done.
        seed: of replies that are drawn.
    """

    def __init__(self, generator: Generator, batch_tokens: int = 8192, progress: Progress = silent, seed: int = 0) -> None:
        super().__init__()
        self._generator, self._batch_tokens, self._progress, self._seed = generator, batch_tokens, progress, seed
        self._chats: dict[str, list[int]] = {}  # the ids of what `apply_chat_template` gave out: a text has no special ids

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of a text after a context, and whether it is what the model would write; arguments of a request: (context, text)."""
        stretches = [self._continuation(*request.args) for request in requests]
        results = [(0.0, True)] * len(stretches)
        for number, score in self._scores(iter(stretches), len(stretches)):
            results[number] = -score.nats, score.greedy
        return results

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, in windows that do not overlap; arguments of a request: (text,)."""
        tokenizer, length = self._generator.tokenizer, self._generator.context_length
        owners: list[int] = []

        def stretches() -> Iterator[Stretch]:
            for number, request in enumerate(requests):
                for window in windows([first_id(tokenizer), *tokenizer.encode(request.args[0])], length, length):
                    owners.append(number)
                    yield window

        sums = [0.0] * len(requests)
        for number, score in self._scores(stretches(), None):
            sums[owners[number]] -= score.nats
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Replies, each up to a stop text; arguments of a request: (context, options of its generation)."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        results = [""] * len(requests)
        for options, numbers in groups.items():
            settings = self._settings(json.loads(options))
            prompts = [self._prompt(requests[number].args[0], settings) for number in numbers]
            for done, (place, replies) in enumerate(self._generator.batch(prompts, settings), start=1):
                if isinstance(replies, Exception):
                    raise replies
                results[numbers[place]] = replies[0]
                self._progress(done, len(prompts))
        return results

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat as a text, which stands for its ids in the requests that follow."""
        if not add_generation_prompt:
            raise RequestError(
                "this task begins the model's turn for it (gen_prefix), which a chat template here cannot do: set chat to false"
            )
        ids = self._generator.render([Message(turn["role"], turn["content"]) for turn in chat_history])
        text = self._generator.tokenizer.decode(ids)
        self._chats[text] = ids
        return text

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's source."""
        return self._generator.template.source if chat_template and self._generator.template else None

    @property
    def tokenizer_name(self) -> str:
        """What tells tokenizers apart."""
        return self._generator.tokenizer.fingerprint

    def _scores(self, stretches: Iterator[Stretch], total: int | None) -> Iterator[tuple[int, Any]]:
        scores = likelihoods(self._generator.engine.network, stretches, self._batch_tokens)
        for done, item in enumerate(scores, start=1):
            self._progress(done, total)
            yield item

    def _continuation(self, context: str, text: str) -> Stretch:
        tokenizer, length = self._generator.tokenizer, self._generator.context_length
        if context not in self._chats:
            return continuation(tokenizer, context, text, length)
        scored = tokenizer.encode(text)
        return Stretch([*self._chats[context], *scored][-(length + 1) :], min(len(scored), length))

    def _prompt(self, context: str, settings: Settings) -> list[int]:
        """The ids of a context, the last for which there is room beside the longest reply."""
        room = self._generator.context_length - (settings.max_new_tokens or 0)
        if room < 1:
            raise RequestError(
                f"replies of {settings.max_new_tokens} tokens leave no room for a prompt in a context of {self._generator.context_length}: "
                "lower max_gen_toks in the task's generation_kwargs"
            )
        ids = self._chats.get(context) or self._generator.tokenizer.encode_prompt(context) or [first_id(self._generator.tokenizer)]
        return ids[-room:]

    def _settings(self, options: dict[str, Any]) -> Settings:
        from framework.generation import Settings

        lengths = [options.pop(name) for name in LENGTHS if name in options]
        until, samples = options.pop("until", None) or [], options.pop("do_sample", None)
        chosen = {name: options.pop(name) for name in SAMPLING if name in options}
        if options:
            raise RequestError(f"generation_kwargs of the task has {', '.join(options)}, which this engine does not know")
        if not (samples or (samples is None and chosen.get("temperature"))):
            chosen["temperature"] = 0.0
        stop = [until] if isinstance(until, str) else [text for text in until if text]
        return Settings(max_new_tokens=int(lengths[0]) if lengths else REPLY_TOKENS, stop=stop, seed=self._seed, **chosen)


def as_lm(generator: Generator, batch_tokens: int = 8192, progress: Progress = silent, seed: int = 0) -> Any:
    """The model for lm-eval: `lm_eval.simple_evaluate(model=as_lm(Generator.load(DIR)), tasks=[...])`. Raises ConfigError without lm-eval."""
    try:
        from lm_eval.api.model import LM
    except ImportError:
        raise ConfigError("lm-eval's tasks need lm-eval: pip install 'framework[lm-eval]'") from None
    kind = type("FrameworkModel", (Model, LM), {"__doc__": Model.__doc__})
    return cast(Any, kind)(generator, batch_tokens, progress, seed)
