"""A typed function made into a command: its signature is the parser, its docstring the help. Imports no torch.

A function and the words after its name flow in; its exit code flows out. Required parameters are positionals (parts of a
family are `--options` all the same), `*names` takes any number of words, everything else is an option.
A command that parses for itself takes one parameter called `arguments`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from framework import share
from framework.commands.compose import load_part
from framework.commands.slots import family_of, is_file, is_list, normalise
from framework.errors import ConfigError
from framework.registry import CORE, Part


def summary(part: Part) -> str:
    """The first line of a command's docstring, read without importing what the command needs; a plugin's shows its origin only."""
    if part.distribution != CORE:
        return f"(from {part.distribution} {part.version})"
    return (inspect.getdoc(part.load()) or "").partition("\n")[0].rstrip(".")


def run(name: str, command: Callable[..., Any], words: list[str]) -> int:
    """Parse the words by the command's signature and call it."""
    parameters = inspect.signature(command).parameters
    if list(parameters) == ["arguments"]:
        return int(command(words) or 0)
    parser, positionals, variadic = _parser(name, command)
    import jsonargparse

    try:
        config = parser.parse_args(_options_first([(_expand(word, key), key) for word, key in _with_key(words)]))
        values = parser.instantiate_classes(config).as_dict()
    except jsonargparse.ArgumentError as error:
        raise ConfigError(shorten(str(error))) from None
    leading = [values.pop(positional) for positional in positionals]
    rest = values.pop(variadic, None) or [] if variadic else []
    return int(command(*leading, *rest, **{key: value for key, value in values.items() if key in parameters}) or 0)


def _parser(name: str, command: Callable[..., Any]) -> tuple[Any, list[str], str | None]:
    import jsonargparse

    docstring = inspect.getdoc(command) or ""
    parser = jsonargparse.ArgumentParser(prog=f"framework {name}", description=docstring.split("\n\n")[0], exit_on_error=False)
    parameters = inspect.signature(command).parameters.values()
    help_of = _argument_help(docstring)
    required = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and not family_of(p.name)]
    for parameter in required:
        kind = Path if "Path" in str(parameter.annotation) else int if str(parameter.annotation) == "int" else str
        parser.add_argument(parameter.name, type=kind, help=help_of.get(parameter.name))
    variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    if variadic:
        parser.add_argument(variadic, nargs="*", type=str, default=[], help=help_of.get(variadic))
    parser.add_function_arguments(
        command, as_group=False, skip={*(p.name for p in required), *([variadic] if variadic else [])}, sub_configs=True
    )
    return parser, [p.name for p in required], variadic


def _options_first(pairs: list[tuple[str, str | None]]) -> list[str]:
    """Options, then positionals: argparse would take a variadic positional as empty when an option stands before it."""
    options = [word for word, key in pairs if key is not None or (word.startswith("--") and len(word) > 2) or word == "-h"]
    words = [word for word, key in pairs if key is None and not word.startswith("--") and word != "-h"]
    return [*options, *(["--", *words] if words else [])]


def _with_key(words: list[str]) -> list[tuple[str, str | None]]:
    """Each word with the option it is the value of, None for options themselves and positionals."""
    pairs: list[tuple[str, str | None]] = []
    key: str | None = None
    for word in words:
        is_option = word.startswith("--") and len(word) > 2
        pairs.append((word, None if is_option else key))
        key = word[2:] if is_option and "=" not in word else None
    return pairs


def _expand(word: str, key: str | None) -> str:
    """A word with the part it names written out: a bare name as its import path, a YAML file as its content."""
    if key is None and word.startswith("--") and "=" in word:
        key, _, value = word[2:].partition("=")
        return f"--{key}={_expand(value, key)}"
    family = family_of(key) if key else None
    if key is None or family is None or word.startswith(("{", "[")):
        return word
    import json

    if is_file(word):
        part, _ = load_part(key.rstrip("+"), share.find(word))
    else:
        import yaml

        given = yaml.safe_load(word)
        part = normalise(key, [given] if is_list(key) and not key.endswith("+") and isinstance(given, str) else given, "the command line")
    return json.dumps(part)


def _argument_help(docstring: str) -> dict[str, str]:
    """Parameter -> its line in the `Args:` section."""
    section = docstring.partition("Args:\n")[2].split("\n\n")[0]
    return {m[1]: " ".join(m[2].split()) for m in re.finditer(r"^ {4}(\w+): (.+(?:\n {6,}.+)*)", section, re.MULTILINE)}


NOISE = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|Given value type: .*|Given value: .*"
    r"|Expected a <class 'NoneType'>\.?|Problem with given class_path '[^']*':|Type \S+.* expects a function or a callable class:"
    r"|Got value: (Namespace\(.*|\{.*)|unsupported value type"
)


def shorten(message: str) -> str:
    """jsonargparse's many-line message as one line: the dotted key and the innermost cause."""
    keys: list[str] = []
    causes: list[str] = []
    for line in message.splitlines():
        for key in re.findall(r'[Pp]arser key "([^"]+)":?', line):
            keys += [] if keys and keys[-1] == key else [key]
        text = NOISE.sub("", re.sub(r'[Pp]arser key "[^"]+":?', "", line)).strip(" -:.\t")
        text = re.sub(
            r"Expected a typing\.Literal\[(.*?)\]", r"expected one of \1", re.sub(r"Expected a <class '([\w.]+)'>", r"expected \1", text)
        )
        if text and text not in causes:
            causes.append(text)
    cause = "; ".join(causes[:3])
    return f"{'.'.join(keys)}: {cause}" if keys else cause
