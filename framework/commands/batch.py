"""Prompts of `framework generate` answered as JSON Lines, all through the engine together, with progress on stderr.

Rows flow in; each flows out in its place with `completion` and `finish_reason` added, to stdout or to a file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from framework.commands.prompts_file import Row
from framework.commands.results_file import ResultsFile
from framework.commands.terminal import note, write
from framework.errors import RequestError, UserError
from framework.formats import sources
from framework.generation.replies import pieces

if TYPE_CHECKING:
    from framework.engine.request import Alternatives
    from framework.generation import Chunk, Generator, Settings, Token
    from framework.tokenizers.base import Tokenizer


def answer(generator: Generator, rows: Sequence[Row], settings: Settings, directory: Path, output: Path | None) -> int:
    """Write a line for each row, in order.

    Args:
        generator: serves nobody else meanwhile.
        rows: prompts, and the lines they stood in.
        settings: of all replies; its `n` makes a list of completions where it is over 1.
        directory: where the generator comes from.
        output: the file; None: stdout.

    Returns:
        The exit code: not 0 when a prompt could not be answered.
    """
    file = ResultsFile(output, _identity(directory, rows, settings)) if output else None
    done = file.lines if file else []
    failed = sum("error" in line for line in done)
    if done:
        note(f"note: {len(done)} of {len(rows)} prompts were answered before; going on there")
    waiting: dict[int, Mapping[str, Any]] = {}
    written = len(done)
    try:
        with _Progress(len(rows), written, generator, hidden=file is None and sys.stdout.isatty()) as progress:
            for number, fields in _answers(generator, rows, settings, first=written):
                progress.advance()
                if "error" in fields:
                    failed += 1
                    progress.say(f"error: prompt {number + 1}: {fields['error']}")
                waiting[number] = fields
                while written in waiting:
                    line = waiting.pop(written)
                    file.write(line) if file else write(json.dumps(line, ensure_ascii=False) + "\n")
                    written += 1
        if file:
            file.finish()
    except KeyboardInterrupt:
        if file:
            note(f"\nnote: {written} of {len(rows)} prompts are answered; the same command goes on there")
        raise
    finally:
        if file:
            file.close()
    return UserError.exit_code if failed else 0


def _answers(generator: Generator, rows: Sequence[Row], settings: Settings, first: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the row, its finished line), in the order they finish."""
    growing: dict[int, list[Answer]] = {}
    refused: dict[int, RequestError] = {}
    for number, piece in pieces(generator, _prompts(generator, rows, first, refused), settings, first):
        if isinstance(piece, Exception):
            error = refused.pop(number, piece)
            if not isinstance(error, UserError):
                raise error
            growing.pop(number, None)
            yield number, {**rows[number].fields, "completion": None, "finish_reason": "error", "error": str(error)}
            continue
        answers = growing.setdefault(number, [Answer() for _ in range(settings.n)])
        answers[piece.index].add(piece)
        if all(answer.finish_reason for answer in answers):
            yield number, {**rows[number].fields, **_fields(growing.pop(number), settings, generator.tokenizer)}


def _prompts(generator: Generator, rows: Sequence[Row], first: int, refused: dict[int, RequestError]) -> Iterator[str | Sequence[int]]:
    """What the engine is asked, made as it is needed. A chat that the template refuses is no ids, which the engine refuses in its turn."""
    for number, row in enumerate(rows[first:], first):
        if isinstance(row.prompt, str):
            yield row.prompt
            continue
        try:
            yield generator.render(row.prompt)
        except RequestError as error:
            refused[number] = error
            yield []


class Answer:
    """One reply in the making."""

    def __init__(self) -> None:
        self.text = ""
        self.finish_reason: str | None = None
        self.tokens: list[Token] = []
        self.prompt_logprobs: tuple[tuple[float, Alternatives], ...] | None = None

    def add(self, chunk: Chunk) -> None:
        """Take in a further piece."""
        self.text += chunk.text
        self.finish_reason = chunk.finish_reason
        self.tokens += chunk.tokens
        self.prompt_logprobs = self.prompt_logprobs or chunk.prompt_logprobs


def _fields(answers: Sequence[Answer], settings: Settings, tokenizer: Tokenizer) -> dict[str, Any]:
    """What is added to a row: values where there is one reply, lists where there are several."""

    def token(token_id: int, logprob: float | None) -> dict[str, Any]:
        known = token_id < tokenizer.vocab_size
        text = tokenizer.token_bytes(token_id).decode("utf-8", errors="replace") if known else ""
        return {"id": token_id, "token": text, "logprob": logprob}

    columns: dict[str, list[Any]] = {
        "completion": [answer.text for answer in answers],
        "finish_reason": [answer.finish_reason for answer in answers],
    }
    if settings.logprobs is not None:
        columns["logprobs"] = [
            [{**token(one.token_id, one.logprob), "top": [token(*other) for other in one.top]} for one in answer.tokens]
            for answer in answers
        ]
    fields = {key: column if settings.n > 1 else column[0] for key, column in columns.items()}
    if settings.prompt_logprobs is not None:
        of_prompt = next((answer.prompt_logprobs for answer in answers if answer.prompt_logprobs is not None), ())
        fields["prompt_logprobs"] = [{"logprob": logprob, "top": [token(*other) for other in top]} for logprob, top in of_prompt]
    return fields


class _Progress:
    """A bar on stderr, where that is a terminal: prompts answered, and tokens a second.

    Args:
        total, done: prompts in all, and before this run.
        generator: counts its tokens.
        hidden: show none in any case.
    """

    def __init__(self, total: int, done: int, generator: Generator, hidden: bool) -> None:
        self._engine, self._begun = generator.engine, time.monotonic()
        disable = True if hidden else None  # None: where stderr is no terminal
        self._bar = tqdm(total=total, initial=done, desc="generate", unit="prompt", dynamic_ncols=True, disable=disable, file=sys.stderr)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self) -> None:
        """A prompt is answered."""
        rate = self._engine.statistics.generated_tokens / max(time.monotonic() - self._begun, 1e-6)
        self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
        self._bar.update()

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._bar.clear()
        note(line)
        self._bar.refresh()


def _identity(directory: Path, rows: Sequence[Row], settings: Settings) -> str:
    """What the answers depend on, as SHA-256 (hex): the model's files, the prompts and the settings."""
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(sources.directory(directory).iterdir())]
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    content = json.dumps([files, [row.fields for row in rows], values], default=lambda part: [type(part).__qualname__, vars(part)])
    return hashlib.sha256(content.encode()).hexdigest()
