"""What may be asked of a reply: everything about it that is not its prompt.

Plain data: options of the command line, the server and the library flow in. Must not know tokenizers or the engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from framework.errors import RequestError
from framework.samplers.base import Sampler
from framework.samplers.chain import SamplingOptions


@dataclass(frozen=True)
class Settings(SamplingOptions):
    """How tokens are chosen, when the reply ends, and what is told about it.

    The options of `SamplingOptions` come first; None leaves one to the model's generation_config.json.

    Args:
        samplers: further samplers, applied after the options' own.
        max_new_tokens: most tokens of the reply; the network's context may end it earlier. None: what generation_config.json
            says, else 128.
        min_new_tokens: before the reply has so many tokens nothing ends it: no stop id is drawn, and no stop string is looked for.
        stop: the reply ends at the first of these strings to be complete, which is not given out.
        include_stop: what ended the reply is part of it: the stop string, or the text of the stop id.
        stop_ids: ids that end the reply, beside the model's own.
        ignore_eos: the model's own end-of-text ids do not end the reply.
        seed: the same seed gives the same reply; reply i of n draws with seed + i.
        n: replies to the prompt.
        logprobs: log-probabilities of the reply's tokens, and so many of the likeliest beside each; None: none.
        prompt_logprobs: the same for the prompt's tokens.
        choices: the reply is one of these texts.
        json_schema: the reply is JSON that this schema (a mapping, or its JSON text) allows.
        regex: the whole reply matches this regular expression (Rust's syntax: no look-around, no back-references).
        cache_key: prompts share what was computed of them only with requests of the same key.
        num_beams: over 1, a beam search of this width: the n best replies it finds, all text at its end. It draws nothing, so of the
            sampling options only bias and penalties count.
        length_penalty: a beam's log-probability is divided by its length to this power; over 0 favours long replies.
        early_stopping: true ends the search with num_beams complete replies; false, when the best beam would score no better were
            it complete now; "never", when it could not at its greatest length.

    Raises:
        RequestError: more than one of choices, json_schema and regex.
    """

    samplers: Sequence[Sampler] = ()
    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    stop: Sequence[str] = ()
    include_stop: bool = False
    stop_ids: Collection[int] = ()
    ignore_eos: bool = False
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    choices: Sequence[str] | None = None
    json_schema: Mapping[str, Any] | str | None = None
    regex: str | None = None
    cache_key: str = ""
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self) -> None:
        constraints = [name for name in ("choices", "json_schema", "regex") if getattr(self, name) is not None]
        if len(constraints) > 1:
            raise RequestError(f"{' and '.join(constraints)} cannot go together: give one of them")

    @property
    def sampling_options(self) -> SamplingOptions:
        """The options of the samplers alone."""
        return SamplingOptions(**{field.name: getattr(self, field.name) for field in fields(SamplingOptions)})
