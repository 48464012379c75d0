"""What may be asked: OpenAI's request bodies and this server's extensions, each field with its bounds. Types are strict.

JSON flows in, checked requests flow out, before anything is allocated for them. Fields that are null count as not given. A field that
nobody knows is an error with the nearest name: a misspelt `temprature` must not give another text than was asked for. Must not know
models: what depends on one (its vocabulary, its context) is checked in calls.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

MAX_CHOICES, MAX_MESSAGES, MAX_TOKENS = 1000, 10_000, 2**20


def _shape(value: Any) -> str | None:
    """Which member of a union of texts and lists a value is meant to be, by its first element: errors then speak of that one."""
    first = value[0] if isinstance(value, list) and value else None
    inner = {int: "<ids>", list: "<lists of ids>"}.get(type(first), "<list>")
    return "<text>" if isinstance(value, str) else inner if isinstance(value, list) else None


def _text_or_list(value: Any) -> str | None:
    return "<text>" if isinstance(value, str) else "<list>" if isinstance(value, list) else None


def _union(choose: Callable[[Any], str | None], message: str) -> Discriminator:
    return Discriminator(choose, custom_error_type="wrong_type", custom_error_message=message)


Text = Annotated[str, Tag("<text>")]
Id = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[Id], Field(min_length=1, max_length=MAX_TOKENS, fail_fast=True)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
Prompt = Annotated[
    Text
    | Annotated[list[str], Field(min_length=1, max_length=128, fail_fast=True), Tag("<list>")]
    | Annotated[Ids, Tag("<ids>")]
    | Annotated[list[Ids], Field(min_length=1, max_length=128, fail_fast=True), Tag("<lists of ids>")],
    _union(_shape, "should be a text, a list of texts, a list of token ids, or a list of lists of token ids"),
]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Stop = Annotated[
    Annotated[StopText, Tag("<text>")] | Annotated[list[StopText], Field(max_length=4, fail_fast=True), Tag("<list>")],
    _union(_text_or_list, "should be a text or a list of texts"),
]
Chance = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class Body(BaseModel):
    """What every request body shares."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, regex_engine="rust-regex")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if isinstance(given, dict):
            known = {str(name) for key, field in cls.model_fields.items() for name in (key, *_aliases(field.validation_alias))}
            for name in given:
                if name not in known:
                    near = difflib.get_close_matches(str(name)[:64], known, n=1)
                    hint = f": did you mean {near[0]}?" if near else ""
                    raise PydanticCustomError("unknown_parameter", "{problem}", {"problem": f"unknown parameter {str(name)[:64]!r}{hint}"})
            return {name: value for name, value in given.items() if value is not None}
        return given


def _aliases(alias: Any) -> list[str]:
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else []


class StreamOptions(Body):
    """What a stream tells beside its text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="accepted: nothing is ever padded here")


class StructuredOutputs(Body):
    """What a reply is held to, as vLLM words it; at most one of them."""

    choice: Texts | None = None
    regex: str | None = Field(None, max_length=4096)
    json_: dict[str, Any] | str | None = Field(None, validation_alias=AliasChoices("json"))


class Sampling(Body):
    """What both kinds of completions take."""

    model: str | None = Field(None, max_length=512, description="one of /v1/models; the server's first when not given")
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: Chance | None = None
    n: int | None = Field(None, ge=1, le=128)
    seed: int | None = Field(None, ge=-1, lt=2**63 - 128, description="-1: none")
    stop: Stop | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Bias], Field(max_length=300)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # beyond OpenAI's
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: Chance | None = None
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    no_repeat_ngram_size: int | None = Field(None, ge=0, le=1024)
    min_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS)
    stop_token_ids: Annotated[list[Id], Field(max_length=64, fail_fast=True)] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    choices: Texts | None = Field(
        None, validation_alias=AliasChoices("choices", "guided_choice"), description="the reply is one of these; also `guided_choice`"
    )
    regex: str | None = Field(
        None, max_length=4096, validation_alias=AliasChoices("regex", "guided_regex"), description="the reply matches; also `guided_regex`"
    )
    json_schema: dict[str, Any] | str | None = Field(
        None, validation_alias=AliasChoices("json_schema", "guided_json"), description="the reply is such JSON; also `guided_json`"
    )
    structured_outputs: StructuredOutputs | None = None
    cache_salt: str | None = Field(None, max_length=256, description="prompts share computed work only with those of the same salt")
    # accepted, and without effect
    user: str | None = Field(None, max_length=512)
    safety_identifier: str | None = Field(None, max_length=512)
    prompt_cache_key: str | None = Field(None, max_length=512)
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = Field(None, max_length=64)


class CompletionRequest(Sampling):
    """The body of /v1/completions."""

    prompt: Prompt
    max_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS, description="0 only with echo: the prompt's log-probabilities alone")
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: int | None = Field(None, ge=1, le=128, description="accepted if it is n: nothing is drawn that is not given out")
    suffix: Literal[""] | None = None

    @model_validator(mode="after")
    def _fits(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens is 0, which asks for nothing without echo")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of must be n: this server gives out every reply that it draws")
        return self


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One message of a chat. What OpenAI's objects carry beside role and content must be null or empty: this server is of text alone."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Text | Annotated[list[TextPart], Field(max_length=1000, fail_fast=True), Tag("<list>")],
        _union(_text_or_list, "should be a text or a list of parts"),
    ]
    name: str | None = Field(None, max_length=256, description="accepted, and without effect")
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def text(self) -> str:
        """Its content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class NamedSchema(Body):
    """A JSON schema with a name, as OpenAI words it."""

    name: str = Field(max_length=64)
    schema_: dict[str, Any] = Field(validation_alias=AliasChoices("schema"))
    description: str | None = None
    strict: bool | None = Field(None, description="accepted: a schema is always held to")


class ResponseFormat(Body):
    """What kind of text a reply is."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type json_schema, and that with it")
        return self


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class ChatRequest(Sampling):
    """The body of /v1/chat/completions."""

    messages: Messages
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS, description="goes before max_tokens")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    # what asks for nothing is accepted
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _fits(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self


class TokenizeRequest(Body):
    """The body of /tokenize: a prompt, or messages."""

    model: str | None = Field(None, max_length=512)
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = Field(None, description="of a prompt: false leaves out what the tokenizer puts in front")
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages, one of them")
        return self


class DetokenizeRequest(Body):
    """The body of /detokenize."""

    model: str | None = Field(None, max_length=512)
    tokens: Annotated[list[Id], Field(max_length=MAX_TOKENS, fail_fast=True)]
