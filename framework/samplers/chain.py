"""The usual options by their usual names, and the list of samplers they stand for: the one place that knows the default order.

Options flow in (from the command line, a server or a model's generation_config.json), samplers flow out. Must not know the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from framework.errors import RequestError
from framework.samplers.base import Sampler
from framework.samplers.penalties import RepetitionPenalty
from framework.samplers.selection import MinP, Temperature, TopK, TopP


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen; None leaves an option to the model's defaults, and without one there to "changes nothing".

    Args:
        temperature: 0 is greedy, 1 the network's own distribution.
        top_k: only the k best tokens; 0 or -1: all.
        top_p: only the fewest best tokens with this probability together; 1: all.
        min_p: only tokens with at least this fraction of the best one's probability; 0: all.
        repetition_penalty: over 1 discourages tokens of the prompt and the reply.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any]) -> SamplingOptions:
        """The defaults that a model's generation_config.json states; `do_sample: false` without a temperature is greedy.

        A config that says nothing of sampling means the network's own distribution (vLLM's reading; transformers' is greedy).
        """
        options = cls(**{field.name: config.get(field.name) for field in fields(cls)})
        return options.over(cls(temperature=0.0)) if config.get("do_sample") is False else options

    def over(self, defaults: SamplingOptions) -> SamplingOptions:
        """These options, with `defaults` where one is None."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return SamplingOptions(**{name: getattr(defaults, name) if value is None else value for name, value in given.items()})

    def samplers(self) -> list[Sampler]:
        """The default list: penalties, temperature, top-k, top-p, min-p. Raises RequestError for a value outside its range."""
        try:
            return [
                RepetitionPenalty(1.0 if self.repetition_penalty is None else self.repetition_penalty),
                Temperature(1.0 if self.temperature is None else self.temperature),
                TopK(0 if self.top_k is None else self.top_k),
                TopP(1.0 if self.top_p is None else self.top_p),
                MinP(0.0 if self.min_p is None else self.min_p),
            ]
        except ValueError as invalid:
            raise RequestError(str(invalid)) from None
