"""`framework evaluate`: a model is judged by tasks. A table on stdout, the same and more as JSON in a file; progress goes to stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.commands.fields import spread
from framework.commands.terminal import note, tolerate_encodings, write
from framework.errors import ConfigError, UserError

if TYPE_CHECKING:
    from framework.commands.model_options import ModelOptions
    from framework.generation import Generator
    from framework.tasks.base import Options, Result, Task

WIDTH = 120  # of a line of an example


@spread("options", "framework.tasks.base:Options")
@spread("model", "framework.commands.model_options:ModelOptions")
def evaluate(
    directory: Path,
    *,
    tasks: Sequence[Task] = (),
    output: Path | None = None,
    max_running: int = 32,
    options: Options,
    model: ModelOptions,
) -> int:
    """Judge a trained model by tasks: perplexity, multiple choice, generated answers, lm-eval's benchmarks.

    Each figure comes with the number it was estimated from and its 95% interval.

    Args:
        directory: a run (`runs/pretrain`), a model directory, a GGUF file, or ORG/NAME of the Hugging Face hub.
        tasks: a task or a list of them in a YAML file, or a class's name; `--tasks+=` adds one, `--tasks.NAME VALUE` sets an argument of the last.
        output: gets the results as JSON, with settings, counts and examples.
        max_running: most replies that are worked on together; more is faster and takes more memory.
    """
    if not tasks:
        raise ConfigError(
            "name at least one task: --tasks FILE.yaml, or --tasks+=Perplexity --tasks.dataset JsonLines --tasks.dataset.paths FILE"
        )
    if output is not None and output.is_dir():
        raise ConfigError(f"the output {output} is a directory; name a file in it")
    if doubled := [name for name, count in Counter(task.name for task in tasks).items() if count > 1]:
        raise ConfigError(f"several tasks are called {doubled[0]}: give each a name of its own (--tasks.name NAME)")
    tolerate_encodings()
    generator = model.load(directory, max_running=max_running)
    header = {"model": str(directory), "model_options": _values(model), "options": _values(options)}
    return _run(generator, tasks, options, header, output)


def _run(generator: Generator, tasks: Sequence[Task], options: Options, header: dict[str, Any], output: Path | None) -> int:
    """All tasks, each of which may fail alone; the exit code."""
    from framework.tasks.report import remarks, table

    results: list[Result] = []
    exit_code = 0
    for task in tasks:
        try:
            results.append(_with_progress(task, generator, options))
        except UserError as error:
            note(f"error: {task.name}: {error}")
            exit_code = error.exit_code
            continue
        for remark in remarks(results[-1]):
            note(f"note: {remark}")
        if output is not None:
            _write(output, header, results)
    if results:
        write(table(results))
    for result in results:
        for sample in result.samples:
            write(_example(result.task, sample))
    return exit_code


def _with_progress(task: Task, generator: Generator, options: Options) -> Result:
    """A task with a bar on stderr, where that is a terminal."""
    from tqdm import tqdm

    with tqdm(desc=task.name, unit="", dynamic_ncols=True, disable=None, file=sys.stderr) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return task.evaluate(generator, options, show)


def _write(output: Path, header: dict[str, Any], results: Sequence[Result]) -> None:
    """The file so far: a later task that fails, or a kill, costs nothing that is there."""
    from framework import __version__
    from framework.files import write_durably
    from framework.tasks.report import as_json

    content = {"framework": __version__, **header, "results": [as_json(result) for result in results]}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_durably(output, lambda file: file.write(text.encode("utf-8", errors="backslashreplace")))


def _example(task: str, sample: Any) -> str:
    lines = [
        f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)}" for key, value in sample.items()
    ]
    shown = [part for line in lines for text in line.splitlines() for part in textwrap.wrap(text, WIDTH) or [""]]
    return f"{'-' * 40}\n{task}\n" + "".join(f"  {line}\n" for line in shown)


def _values(options: Any) -> dict[str, Any]:
    return {
        name: value if value is None or isinstance(value, str | int | bool) else str(value)
        for name, value in dataclasses.asdict(options).items()
    }
