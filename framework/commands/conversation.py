"""One conversation with a model: turns and commands in, replies on stdout as they come, notes on stderr.

Must not know whether it is a terminal or a pipe that the turns come from.
"""

from __future__ import annotations

import dataclasses
import difflib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from framework.commands.fields import Fields
from framework.commands.terminal import Interrupts, note, unicode_text, write
from framework.errors import ConfigError, RequestError, UserError

if TYPE_CHECKING:
    from framework.chat import Message
    from framework.engine.request import FinishReason
    from framework.generation import Generator, Reader, Settings

QUOTES = '"""'
HELP = f"""\
/reset              forget what was said
/system [TEXT]      set the system message; without a text there is none
/set [NAME VALUE]   set an option (/set temperature 0.5); alone: show what is set
/stats              show tokens and their speed after each reply, or no longer
/quit               leave; Ctrl-D or Ctrl-C twice does too
Ctrl-C stops a reply. {QUOTES} begins a turn of several lines and ends it."""
NO_OPTIONS = {"n", "cache_key", "logprobs", "prompt_logprobs"}  # a chat shows one reply, and nothing beside it


class Turn(NamedTuple):
    """What the user entered: something to say, or a command."""

    text: str
    is_command: bool


class Conversation:
    """A conversation, and what can be changed about it while it lasts.

    Args:
        generator: has a template; serves nobody else.
        settings: of every reply.
        system: the system message; None: none.
        stats: whether each reply is followed by its tokens and their speed.

    Attributes:
        messages: what was said, the system message left out.
        ended: the user wants to leave.
    """

    def __init__(self, generator: Generator, settings: Settings, system: str | None = None, stats: bool = False) -> None:
        self.generator, self.settings, self.system, self.stats = generator, settings, system, stats
        self.messages: list[Message] = []
        self.ended = False
        self._fields = Fields(type(settings), NO_OPTIONS | {"samplers"})
        self._check(settings)

    def take(self, turn: Turn, interrupts: Interrupts | None = None) -> bool:
        """Answer a turn or obey a command; false when it could not be done, of which the user has been told."""
        try:
            text = unicode_text(turn.text, "what was entered")
            if turn.is_command:
                self._obey(text)
            elif text:
                self._reply(text, interrupts)
        except UserError as error:
            note(f"error: {error}")
            return False
        return True

    def _reply(self, text: str, interrupts: Interrupts | None) -> None:
        from framework.chat import Message
        from framework.generation.replies import Replies

        said = [*self.messages, Message("user", text)]
        replies = Replies(self.generator)
        settings, seed = self._unlimited(self.settings), self.settings.seed
        if seed is not None:
            settings = dataclasses.replace(settings, seed=seed + len(self.messages) // 2)  # the same draws in every turn would look alike
        reader = replies.add(0, self._prompt(said), settings)
        answer, clock = "", Clock()
        reason: FinishReason | None = None
        try:
            while replies and not (interrupts and interrupts.count):
                for _, piece in replies.round():
                    if isinstance(piece, Exception):
                        raise piece
                    clock.tick()
                    answer, reason = answer + piece.text, piece.finish_reason
                    write(piece.text)
        finally:
            replies.close()
            if answer or reason:
                write("\n")
        if not answer and not reason:
            note("[stopped before it began: your message is taken back]")
            return
        self.messages = [*said, Message("assistant", answer)]
        self._comment(reason, reader, clock)

    def _prompt(self, said: Sequence[Message]) -> list[int]:
        from framework.chat import Message

        ids = self.generator.render([*([Message("system", self.system)] if self.system else []), *said])
        context = self.generator.context_length
        if len(ids) >= context:
            mend = "/reset begins anew" if len(said) > 1 else "shorten the message"
            raise RequestError(f"the conversation has {len(ids)} tokens, and the context of {context} leaves no room for a reply: {mend}")
        return ids

    def _comment(self, reason: FinishReason | None, reader: Reader, clock: Clock) -> None:
        """What the user must know of a reply that is over."""
        used, context = reader.num_prompt_tokens + reader.num_reply_tokens, self.generator.context_length
        if reason is None:
            note("[stopped]")
        elif reason == "length" and used >= context:
            note(f"[the context of {context} tokens is full: /reset begins anew]")
        elif reason == "length":
            note(f"[cut off after {reader.num_reply_tokens} tokens: /set max_new_tokens allows more]")
        if self.stats:
            note(f"[{clock.summary(reader.num_reply_tokens)}; {used:,} of {context:,} tokens of the context are used]")

    def _obey(self, line: str) -> None:
        word, _, rest = line[1:].partition(" ")
        commands = {"reset": self._reset, "system": self._system, "set": self._set, "stats": self._stats, "help": self._help}
        commands |= {"quit": self._quit, "exit": self._quit}
        if word not in commands:
            near = difflib.get_close_matches(word, commands, n=1)
            hint = f"did you mean /{near[0]}?" if near else "/help shows them."
            raise ConfigError(f"there is no command /{word}; {hint} With a space in front it is no command.")
        commands[word](rest.strip())

    def _reset(self, _: str) -> None:
        self.messages = []
        note("[what was said is forgotten]")

    def _system(self, text: str) -> None:
        self.system = text or None
        note("[the system message is set]" if text else "[no system message]")

    def _set(self, words: str) -> None:
        name, _, word = words.partition(" ")
        name = name.replace("-", "_")
        if not name:
            defaults = type(self.settings)()
            values = {name: getattr(self.settings, name) for name in self._fields.names}
            changed = [f"{name} {value}" for name, value in values.items() if value not in (getattr(defaults, name), [])]
            note("\n".join(changed or ["nothing is set: all as the model has it"]))
            return
        if name not in self._fields.names:
            near = difflib.get_close_matches(name, self._fields.names, n=1)
            raise ConfigError(f"there is no option {name}; {f'did you mean {near[0]}?' if near else ', '.join(self._fields.names)}")
        if word.strip():
            settings = dataclasses.replace(self.settings, **{name: self._fields.parse(name, word.strip())})
            self._check(settings)
            self.settings = settings
        note(f"{name} {getattr(self.settings, name)}")

    def _stats(self, _: str) -> None:
        self.stats = not self.stats
        note(f"[tokens and speed after each reply: {'shown' if self.stats else 'not shown'}]")

    def _help(self, _: str) -> None:
        note(HELP)

    def _quit(self, _: str) -> None:
        self.ended = True

    def _check(self, settings: Settings) -> None:
        """Raises RequestError for settings that no reply could have."""
        self.generator.prepare("", self._unlimited(settings))

    def _unlimited(self, settings: Settings) -> Settings:
        """A reply ends where the model ends it, or the context, unless the user set a length."""
        if settings.max_new_tokens is not None:
            return settings
        return dataclasses.replace(settings, max_new_tokens=self.generator.context_length)


class Clock:
    """Times a reply: when it was asked for, when its first piece came, when its last."""

    def __init__(self) -> None:
        self._asked = self._last = time.monotonic()
        self._first: float | None = None

    def tick(self) -> None:
        """A piece came."""
        self._last = time.monotonic()
        self._first = self._first or self._last

    def summary(self, tokens: int) -> str:
        """Tokens, their speed after the first, and the wait for that."""
        if self._first is None:
            return f"{tokens} tokens"
        speed = f" at {(tokens - 1) / (self._last - self._first):,.1f} tokens/s" if self._last > self._first else ""
        return f"{tokens} tokens{speed}, the first after {self._first - self._asked:.2f} s"
