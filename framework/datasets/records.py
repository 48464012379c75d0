"""What fine-tuning trains on: demonstrations, preferences and prompts, made of rows in the formats that are in use.

A row's fields flow in, a record flows out; which fields it has says which format it is. Must not know templates, tokenizers or files.

A row is read as the first of these formats whose fields it has (null counts as missing); the names are TRL's, where TRL has them.

    asks                                   as a demonstration it has     as a preference
    messages | conversations (+ system)    the assistant's own turns     chosen, rejected
    prompt                                 completion                    chosen, rejected
    instruction (+ input, system, history) output                        chosen, rejected      (alpaca)
    question                               answer                        chosen, rejected      (GSM8K)
                                           text                          chosen, rejected that begin alike

A prompt and its replies are plain text, or lists of turns `{role, content}` or `{from, value}` (ShareGPT). A text that replies to a chat
is its next turn. An instruction and a question are a user's turn.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from framework.datasets.base import Message, Row, Rows
from framework.datasets.turns import RowError, Turns, messages_of, text_of, turns_of
from framework.errors import ConfigError, DataError, RequestError, TokenizerError

__all__ = ["Demonstration", "Preference", "Prompt", "RowError", "Turns", "demonstration", "preference", "prompt", "read"]

Made = TypeVar("Made")

CHATS = ("messages", "conversations")
REPLIES = {"prompt": "completion", "instruction": "output", "question": "answer"}  # the field that replies to each
BESIDE = {"messages": ("system",), "conversations": ("system",), "instruction": ("input", "system", "history")}  # fields that go with it
NUM_SHOWN = 3  # of the rows that do not fit


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


def demonstration(row: Row) -> Demonstration:
    """What the row shows. Of messages, and of an instruction with its history, every assistant turn is in the reply."""
    fields = _present(row)
    name = next((name for name in (*CHATS, *REPLIES) if name in fields and REPLIES.get(name, name) in fields), None)
    if name is None and "text" in fields:
        return Demonstration("", _reply("text", text_of("text", fields["text"]), ""), row.source)
    if name is None:
        known = [*CHATS, *(f"{question} and {answer}" for question, answer in REPLIES.items()), "text"]
        raise RowError(f"no demonstration: it has {_list(fields)}; known are {'; '.join(known)}")
    asked = _question(name, fields)
    reply: Turns = ()
    if name in REPLIES:
        reply = _reply(REPLIES[name], turns_of(REPLIES[name], fields[REPLIES[name]]), asked)
    if name != "prompt":
        whole = (*asked, *reply)
        first = next((number for number, turn in enumerate(whole) if turn.role == "assistant"), len(whole))
        asked, reply = whole[:first], _reply(name, whole[first:], ())
    return Demonstration(asked, reply, row.source)


def preference(row: Row) -> Preference:
    """Which of two replies the row prefers. Without a prompt, or with one that both repeat, it is what both begin with."""
    fields = _present(row)
    if "chosen" not in fields or "rejected" not in fields:
        raise RowError(f"no preference: it has {_list(fields)}, but a preference needs chosen and rejected")
    chosen, rejected = turns_of("chosen", fields["chosen"]), turns_of("rejected", fields["rejected"])
    name = next((name for name in ("prompt", *CHATS, *REPLIES) if name in fields), None)
    if name is None or (_is_whole(chosen) and not isinstance(fields.get("prompt"), list)):
        asked = _shared(chosen, rejected)
        chosen, rejected = chosen[len(asked) :], rejected[len(asked) :]
    else:
        asked = _question(name, fields)
    if chosen == rejected:
        raise RowError("chosen and rejected are the same")
    chosen, rejected = _reply("chosen", chosen, asked), _reply("rejected", rejected, asked)
    return Preference(asked, chosen, rejected, _margin(fields.get("margin")), row.source)


def prompt(row: Row) -> Prompt:
    """What the row asks; of messages all before the last reply. Its other fields go along."""
    fields = _present(row)
    name = next((name for name in (*CHATS, *REPLIES) if name in fields), None)
    if name is None:
        raise RowError(f"no prompt: it has {_list(fields)}; known are {', '.join((*CHATS, *REPLIES))}")
    asked = _question(name, fields)
    if name in CHATS and _ends_with_reply(asked):
        asked = asked[:-1]
    if not asked or _ends_with_reply(asked):
        raise RowError(f"{name} asks nothing: it {'ends with the reply' if asked else 'is empty'}")
    return Prompt(asked, {key: value for key, value in row.fields.items() if key not in (name, *BESIDE.get(name, ()))}, row.source)


def read(rows: Rows, convert: Callable[[Row], Made], max_bad_rows: float = 0.0) -> list[Made]:
    """All rows converted, in order; rows that do not fit are left out, counted and noted on stderr.

    Args:
        rows: where they come from.
        convert: one of the functions above, or one that goes on from there to ids.
        max_bad_rows: share of the rows that may not fit, 0 to 1.

    Raises:
        DataError: more do not fit, or none fits; names the first ones, where they are and why.
    """
    if not 0 <= max_bad_rows <= 1:
        raise ConfigError(f"max_bad_rows {max_bad_rows} is no share of the rows: give a number from 0 to 1.")
    made: list[Made] = []
    num_bad = 0
    shown: list[str] = []
    for row in rows.rows():
        try:
            made.append(convert(row))
        except (RowError, RequestError, TokenizerError) as reason:  # the latter two: what a template or a tokenizer cannot take
            num_bad += 1
            shown += [f"{row.source}: {reason}"] if len(shown) < NUM_SHOWN else []
    if num_bad:
        counted = f"{num_bad} of {num_bad + len(made)} rows do not fit: {'; '.join(shown)}{'; ...' if num_bad > len(shown) else ''}"
        if not made or num_bad > max_bad_rows * (num_bad + len(made)):
            raise DataError(f"{counted}. Mend or remove them, or allow a share by max_bad_rows (it is {max_bad_rows:g}).")
        print(f"note: {counted}; they are left out", file=sys.stderr)
    return made


def _present(row: Row) -> dict[str, Any]:
    """The fields that hold something."""
    fields = {name: value for name, value in row.fields.items() if value is not None}
    if fields.get("tools") not in (None, "", "[]", []):
        raise RowError("it has tools, which no template here is given: write them into the system's turn")
    return fields


def _question(name: str, fields: Mapping[str, Any]) -> Turns:
    """What the field `name` asks, with the fields that go with it."""
    if name == "prompt":
        return turns_of(name, fields[name])
    system = (Message("system", text_of("system", fields["system"])),) if name in BESIDE and fields.get("system") else ()
    if name in CHATS:
        turns = messages_of(name, fields[name])
        return turns if turns[0].role == "system" else (*system, *turns)
    asked = text_of(name, fields[name])
    if name == "instruction" and fields.get("input"):
        asked = f"{asked}\n{text_of('input', fields['input'])}"
    history = _history(fields["history"]) if name == "instruction" and fields.get("history") else ()
    return (*system, *history, Message("user", asked))


def _history(pairs: Any) -> Iterator[Message]:
    if not isinstance(pairs, list | tuple):
        raise RowError("history is no list of pairs of an instruction and an output")
    for number, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError(f"history[{number}] is no pair of an instruction and an output")
        yield Message("user", text_of(f"history[{number}]", pair[0]))
        yield Message("assistant", text_of(f"history[{number}]", pair[1]))


def _reply(name: str, reply: Turns, asked: Turns) -> Turns:
    """The reply as the same kind as what it replies to, and not empty."""
    if isinstance(reply, str) and isinstance(asked, tuple):
        reply = (Message("assistant", reply),)
    if isinstance(reply, tuple) and isinstance(asked, str):
        raise RowError(f"the prompt is text and {name} a list of messages; make them of one kind")
    said = [reply] if isinstance(reply, str) else [turn.content for turn in reply if turn.role == "assistant"]
    if not said:
        raise RowError(f"{name} has no assistant's turn")
    if not all(map(str.strip, said)):
        raise RowError(f"{name} is an empty reply" if len(said) == 1 else f"{name} has an empty reply")
    return reply


def _is_whole(chosen: Turns) -> bool:
    """Whether it is a chat from its beginning, with what was asked."""
    return isinstance(chosen, tuple) and chosen[0].role != "assistant"


def _shared(chosen: Turns, rejected: Turns) -> Turns:
    """What two replies begin with: the prompt where none is given; of texts no part of a word."""
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowError("one of chosen and rejected is text and the other a list of messages; make them of one kind")
    differs = next((place for place, pair in enumerate(zip(chosen, rejected, strict=False)) if pair[0] != pair[1]), None)
    shared = chosen[:differs] if differs is not None else min(chosen, rejected, key=len)
    if isinstance(shared, str):
        before_space = re.match(r".*(?=\s)", shared, re.DOTALL)
        return before_space.group() if before_space else ""
    if not shared:
        raise RowError("there is no prompt, and chosen and rejected begin with different turns")
    return shared


def _ends_with_reply(turns: Turns) -> bool:
    return isinstance(turns, tuple) and bool(turns) and turns[-1].role == "assistant"


def _margin(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(f"margin is {value!r}, no finite number")
    return float(value)


def _list(fields: Iterable[str]) -> str:
    return ", ".join(fields) or "no fields"
