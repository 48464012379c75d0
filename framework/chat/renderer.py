"""A program, run in a process of its own: it renders one chat template, which whoever made a model may have written.

The first line of the input is a JSON object with the template; every further line a list of such with its variables, a text each. Each
line is answered by a JSON object with `texts` or `error`. Imports nothing but Jinja, whose sandbox keeps a template from Python's objects; that it takes
neither too much memory nor too long is seen to here and by the parent process. Must not know tokenizers.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """`{% generation %}` around what an assistant says, which some templates have for training: the text inside is as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body of the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Renderer:
    """One template, compiled as transformers compiles chat templates.

    Args:
        source: the template.
        marks: each special token that it may spell, and the one character to be written in its place. Only what stands in the
            template itself is replaced, so that the mark is never part of what a message says.
        max_characters: of a text.
    """

    def __init__(self, source: str, marks: Mapping[str, str], max_characters: int) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
        tree = environment.parse(source)
        if marks:
            longest_first = re.compile("|".join(re.escape(token) for token in sorted(marks, key=len, reverse=True)))
            for data in tree.find_all(nodes.TemplateData):
                data.data = longest_first.sub(lambda found: marks[found.group()], data.data)
            for constant in tree.find_all(nodes.Const):
                if isinstance(constant.value, str):
                    constant.value = longest_first.sub(lambda found: marks[found.group()], constant.value)
        self._template, self._max_characters = environment.from_string(tree), max_characters

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises ValueError if it is too long, and whatever Jinja raises."""
        pieces: list[str] = []
        room = self._max_characters
        for piece in self._template.generate(variables):
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                raise ValueError(f"its text is longer than {self._max_characters} characters")
        return "".join(pieces)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    """transformers' filter: Jinja's own escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _bound_memory(further_bytes: int) -> None:
    """From here on the process gets so much memory beyond what it has; nothing happens where the system knows no such limit."""
    try:
        import resource

        with open("/proc/self/statm") as pages:
            used = int(pages.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + further_bytes, used + further_bytes))
    except (ImportError, OSError, ValueError):
        return


def main() -> None:
    """Answer line by line until the input ends."""
    renderer: Renderer | None = None
    for line in sys.stdin:
        try:
            task = json.loads(line)
            if renderer is None:
                _bound_memory(task.pop("further_bytes"))
                renderer, task = Renderer(**task), []
            answer: dict[str, Any] = {"texts": [renderer.render(variables) for variables in task]}
        except MemoryError:
            answer = {"error": "it takes too much memory"}
        except Exception as problem:  # of the template's making, whatever it is
            answer = {"error": f"{type(problem).__name__}: {problem}"[:500]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
