"""What fine-tuning trains on: demonstrations, preferences and prompts, made of rows in the formats that are in use.

A row's fields flow in, a record flows out; which fields it has says which format it is. Must not know templates, tokenizers or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from framework.datasets.base import Message

Turns = str | tuple[Message, ...]  # plain text, or turns of a chat


class Demonstration(NamedTuple):
    """What a model should write: of a text the reply is trained, of a chat every assistant turn of the reply.

    Attributes:
        prompt: what comes before; "" or () where there is nothing.
        reply: of the same kind as the prompt.
        source: where it came from.
    """

    prompt: Turns
    reply: Turns
    source: str


class Preference(NamedTuple):
    """Two replies to one prompt, all three of one kind.

    Attributes:
        prompt: what was asked.
        chosen: the better reply.
        rejected: the worse reply.
        margin: by how much it is better; None where nobody said.
        source: where it came from.
    """

    prompt: Turns
    chosen: Turns
    rejected: Turns
    margin: float | None
    source: str


class Prompt(NamedTuple):
    """Something to reply to.

    Attributes:
        prompt: what is asked.
        fields: the row's other fields (the right answer, say), for reward functions.
        source: where it came from.
    """

    prompt: Turns
    fields: Mapping[str, Any]
    source: str
