"""The usual options by their usual names, and the list of samplers they stand for: the one place that knows the default order.

Options flow in (from the command line, a server or a model's generation_config.json), samplers flow out. Must not know the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from framework.errors import CheckpointError, RequestError
from framework.samplers.base import Sampler
from framework.samplers.bias import LogitBias
from framework.samplers.penalties import FrequencyPenalty, NoRepeatNgram, PresencePenalty, RepetitionPenalty
from framework.samplers.selection import MinP, Temperature, TopK, TopP, TypicalP


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen; None leaves an option to the model's defaults, and without one there to "changes nothing".

    They apply in the order of `ORDER`, each to what those before it left: logit bias, penalties (repetition, frequency, presence),
    no-repeat-ngram, temperature, top-k, top-p, min-p, typical-p.

    Args:
        temperature: 0 is greedy, 1 the network's own distribution.
        top_k: only the k best tokens; 0 or -1: all.
        top_p: only the fewest best tokens with this probability together; 1: all.
        min_p: only tokens with at least this fraction of the best one's probability; 0: all.
        typical_p: only the tokens of the most typical probabilities, with this probability together; 1: all.
        repetition_penalty: over 1 discourages tokens of the prompt and the reply; 1: none.
        frequency_penalty: over 0 discourages tokens of the reply, for each time that they occur; -2 to 2, 0: none.
        presence_penalty: over 0 discourages tokens of the reply, however often they occur; -2 to 2, 0: none.
        no_repeat_ngram_size: so many tokens in a row never occur twice in prompt and reply; 0: they may.
        logit_bias: token id -> what is added to its logit, -100 to 100.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    logit_bias: Mapping[int, float] | None = None

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any]) -> SamplingOptions:
        """The defaults that a model's generation_config.json states; `do_sample: false` without a temperature is greedy.

        A config that says nothing of sampling means the network's own distribution (vLLM's reading; transformers' is greedy).
        Hugging Face's names are ours; its other settings are not sampling or have no counterpart, and are left alone.

        Raises:
            CheckpointError: an option that is no number.
        """
        given = {name: config[name] for name, *_ in ORDER if name != "logit_bias" and config.get(name) is not None}
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise CheckpointError(f"generation_config.json has {name}: {value!r}, which is no number: correct or delete it")
        options = SamplingOptions(**given)
        return options.over(SamplingOptions(temperature=0.0)) if config.get("do_sample") is False else options

    def over(self, defaults: SamplingOptions) -> Self:
        """These options, with `defaults` where one is None."""
        missing = [field.name for field in fields(SamplingOptions) if getattr(self, field.name) is None]
        return replace(self, **{name: getattr(defaults, name) for name in missing})

    def chain(self) -> list[Sampler]:
        """A sampler for each option, in the default order. Raises RequestError for a value outside its range."""
        try:
            return [make(idle if getattr(self, name) is None else getattr(self, name)) for name, make, idle in ORDER]
        except ValueError as invalid:
            raise RequestError(str(invalid)) from None


# option, its sampler, and the value that changes nothing
ORDER: tuple[tuple[str, Callable[[Any], Sampler], Any], ...] = (
    ("logit_bias", LogitBias, {}),
    ("repetition_penalty", RepetitionPenalty, 1.0),
    ("frequency_penalty", FrequencyPenalty, 0.0),
    ("presence_penalty", PresencePenalty, 0.0),
    ("no_repeat_ngram_size", NoRepeatNgram, 0),
    ("temperature", Temperature, 1.0),
    ("top_k", TopK, 0),
    ("top_p", TopP, 1.0),
    ("min_p", MinP, 0.0),
    ("typical_p", TypicalP, 1.0),
)
