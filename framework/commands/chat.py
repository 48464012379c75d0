"""`framework chat`: turns in, the model's replies on stdout as they come; prompts, notes and errors on stderr.

At a terminal with editing, history and commands; from a pipe one turn a line. Must not know how a reply is made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from framework.commands.conversation import NO_OPTIONS, QUOTES, Conversation, Turn
from framework.commands.fields import spread
from framework.commands.terminal import Interrupts, ask, note, tolerate_encodings, unicode_text
from framework.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from framework.commands.model_options import ModelOptions
    from framework.generation import Settings

PROMPT, FURTHER = "> ", "... "


@spread("settings", "framework.generation:Settings", without=NO_OPTIONS)
@spread("model", "framework.commands.model_options:ModelOptions")
def chat(directory: Path, *, system: str | None = None, stats: bool = False, settings: Settings, model: ModelOptions) -> int:
    """Talk with a trained model that has a chat template.

    What is not given comes from the model's generation_config.json; a reply may be as long as the context allows. With a seed, reply i of
    the conversation draws with the seed plus i.

    Args:
        directory: a run (`runs/sft`), a model directory, a GGUF file, or ORG/NAME of the Hugging Face hub.
        system: the system message.
        stats: true: after each reply its tokens and their speed.
    """
    tolerate_encodings()
    generator = model.load(directory, max_running=max(1, settings.num_beams))
    if generator.template is None:
        raise CheckpointError(f"{directory} has no chat template to talk by; `framework generate` continues texts with it")
    talk = Conversation(generator, settings, system and unicode_text(system, "the system message"), stats)
    return _from_terminal(talk) if sys.stdin.isatty() else _from_pipe(talk)


def _from_terminal(talk: Conversation) -> int:
    note("/help shows the commands; Ctrl-C stops a reply.")
    leaving = False
    with Interrupts() as interrupts:
        while not talk.ended:
            try:
                interrupts.reading = True
                turn = _turn(ask)
            except KeyboardInterrupt:
                note("" if leaving else "\nCtrl-C again leaves")
                if leaving:
                    return 0
                leaving = True
                continue
            finally:
                interrupts.reading, interrupts.count = False, 0
            leaving = False
            if turn is None:
                note("")
                return 0
            talk.take(turn, interrupts)
    return 0


def _from_pipe(talk: Conversation) -> int:
    """The exit code tells whether every turn was answered: a script cannot read stderr."""

    def read(prompt: str) -> str:
        if line := sys.stdin.readline():
            return line.removesuffix("\n")
        raise EOFError

    code = 0
    while not talk.ended and (turn := _turn(read)) is not None:
        if not talk.take(turn):
            code = UserError.exit_code
    return code


def _turn(read: Callable[[str], str]) -> Turn | None:
    """The next turn; None at the end of input. What stands between triple quotes is one turn, however many lines it has."""
    try:
        line = read(PROMPT)
        if not line.lstrip().startswith(QUOTES):
            return Turn(line.strip(), line.startswith("/"))
        text = line.strip().removeprefix(QUOTES)
        while not text.rstrip().endswith(QUOTES):
            text += f"\n{read(FURTHER)}"
        return Turn(text.rstrip().removesuffix(QUOTES).strip("\n"), is_command=False)
    except EOFError:
        return None
