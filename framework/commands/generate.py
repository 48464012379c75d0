"""`framework generate`: prompts in, prompts and their continuations on stdout as they come. Everything else goes to stderr.

Prompts of a file come out as JSON Lines, on stdout or in a file that is whole or absent.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from framework.commands.fields import spread
from framework.commands.terminal import note, tolerate_encodings, unicode_text, write
from framework.errors import CheckpointError, ConfigError, RequestError, UserError

if TYPE_CHECKING:
    from framework.commands.model_options import ModelOptions
    from framework.generation import Chunk, Generator, Settings

SEPARATOR = "-" * 40


@spread("settings", "framework.generation:Settings", without={"n", "cache_key"})
@spread("model", "framework.commands.model_options:ModelOptions")
def generate(
    directory: Path,
    *prompts: str,
    samples: int = 1,
    max_running: int = 32,
    prompts_file: Path | None = None,
    output: Path | None = None,
    settings: Settings,
    model: ModelOptions,
) -> int:
    """Continue prompts with a trained model.

    What is not given comes from the model's generation_config.json, else it changes nothing (temperature 1, every token).

    Args:
        directory: a run (`runs/pretrain`), a model directory, a GGUF file, or ORG/NAME of the Hugging Face hub.
        prompts: texts to continue; `-` is what stdin holds; none begins a new document.
        samples: continuations of each prompt; number i of all draws with the seed plus i.
        max_running: most continuations that are worked on together; more is faster and takes more memory.
        prompts_file: prompts, one a line: JSON Lines with "prompt", "messages" or "text" in a .jsonl, else plain text.
        output: gets each prompt's line with "completion" and "finish_reason" as JSON Lines; stopped, the same command goes on there.
    """
    if samples < 1:
        raise RequestError(f"samples is {samples} and must be at least 1")
    if prompts and prompts_file:
        raise ConfigError("give prompts or --prompts_file, not both")
    if prompts_file and output and prompts_file.resolve() == output.resolve():
        raise ConfigError(f"--output {output} would replace the prompts: name another file")
    as_lines = bool(prompts_file or output)
    if not as_lines and (settings.logprobs is not None or settings.prompt_logprobs is not None):
        raise ConfigError("log-probabilities are written as JSON Lines only: add --output FILE.jsonl")
    import dataclasses

    from framework.commands.prompts_file import Row, read_prompts

    tolerate_encodings()
    settings = dataclasses.replace(settings, n=samples)
    rows = read_prompts(prompts_file) if prompts_file else [Row(text, {"prompt": text}) for text in _texts(prompts)]
    generator = model.load(directory, max_running=min(max_running, len(rows) * max(samples, settings.num_beams)))
    if generator.template is None and not all(isinstance(row.prompt, str) for row in rows):
        raise CheckpointError(f"{directory} has no chat template: {prompts_file} can hold texts only, no messages")
    generator.prepare("", settings)  # what is wrong with the settings is said once, not for each prompt
    if as_lines:
        from framework.commands.batch import answer

        return answer(generator, rows, settings, directory, output)
    return _show(generator, [str(row.prompt) for row in rows], settings)


def _texts(prompts: Sequence[str]) -> Iterator[str]:
    for number, prompt in enumerate(prompts or ("",), start=1):
        if prompt == "-":
            yield unicode_text(sys.stdin.read(), "stdin").removesuffix("\n")
        else:
            yield unicode_text(prompt, f"prompt {number}")


def _show(generator: Generator, prompts: Sequence[str], settings: Settings) -> int:
    """Prompts and replies on stdout; the exit code."""
    from framework.generation.replies import pieces

    page, failed = Page(prompts, settings.n), 0
    for number, piece in pieces(generator, prompts, settings):
        if not isinstance(piece, Exception):
            page.add(number, piece)
            continue
        if len(prompts) == 1 or not isinstance(piece, UserError):
            raise piece
        note(f"error: prompt {number + 1}: {piece}")
        page.drop(number)
        failed = UserError.exit_code
    return failed


class Page:
    """Puts replies that grow side by side on stdout one below the other, the first unfinished one as it grows.

    Args:
        prompts: their texts, each shown before each of its replies.
        samples: replies to each prompt.
    """

    def __init__(self, prompts: Sequence[str], samples: int) -> None:
        self._prompts = prompts
        self._order = deque((number, index) for number in range(len(prompts)) for index in range(samples))
        self._held: defaultdict[tuple[int, int], str] = defaultdict(str)
        self._ended: set[tuple[int, int]] = set()
        self._shown: tuple[int, int] | None = None

    def add(self, number: int, chunk: Chunk) -> None:
        """Take in a piece of a reply to prompt `number`, and show what its turn has come."""
        self._held[number, chunk.index] += chunk.text
        if chunk.finish_reason:
            self._ended.add((number, chunk.index))
        self._show()

    def drop(self, number: int) -> None:
        """End the replies to a prompt; those that are not on the page yet never will be."""
        self._ended |= {reply for reply in self._order if reply[0] == number}
        self._order = deque(reply for reply in self._order if reply[0] != number or reply == self._shown)
        self._show()

    def _show(self) -> None:
        while self._order and (self._order[0] in self._held or self._order[0] == self._shown):
            reply = self._order[0]
            if reply != self._shown:
                write(f"{SEPARATOR}\n{self._prompts[reply[0]]}" if self._shown else self._prompts[reply[0]])
                self._shown = reply
            write(self._held.pop(reply, ""))
            if reply not in self._ended:
                return
            write("\n")
            self._order.popleft()
