"""A typed function made into a command: its signature is the parser, its docstring the help. Imports no torch.

A function and the words after its name flow in; its exit code flows out. Required parameters are positionals (parts of a
family are `--options` all the same), `*names` takes any number of words, everything else is an option.
A dataclass's fields become options of their own where `fields.spread` says so. A command that parses for itself takes one parameter
called `arguments`.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from framework import share
from framework.commands.compose import load_part
from framework.commands.fields import Fields, argument_help, spreads
from framework.commands.part_help import part_help
from framework.commands.slots import family_of, is_file, is_list, normalise
from framework.errors import ConfigError
from framework.registry import CORE, Part

HELP = ("-h", "--help")


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
    spread = spreads(command)
    options = [option for name in parameters for option in (spread[name].names if name in spread else [name])]
    if asked := _asked_part(words):
        _known(name, asked[0], options)
        print(part_help(*asked))
        return 0
    parser, positionals, variadic = _parser(name, command, spread)
    import jsonargparse

    try:
        lists = {option for fields in spread.values() for option in fields.lists}
        config = parser.parse_args(_in_order(name, words, options, lists))
        values = parser.instantiate_classes(config).as_dict()
    except jsonargparse.ArgumentError as error:
        raise ConfigError(f"{shorten(str(error))} (framework {name} --help shows what it takes)") from None
    leading = [values.pop(positional) for positional in positionals]
    rest = values.pop(variadic, None) or [] if variadic else []
    given = {key: value for key, value in values.items() if key in parameters}
    return int(command(*leading, *rest, **given, **{parameter: fields.build(values) for parameter, fields in spread.items()}) or 0)


def _parser(name: str, command: Callable[..., Any], spread: Mapping[str, Fields]) -> tuple[Any, list[str], str | None]:
    import jsonargparse

    docstring = inspect.getdoc(command) or ""
    parser = jsonargparse.ArgumentParser(prog=f"framework {name}", description=docstring.split("\n\n")[0], exit_on_error=False)
    parameters = inspect.signature(command).parameters.values()
    help_of = argument_help(docstring)
    required = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and not family_of(p.name)]
    for parameter in required:
        kind = Path if "Path" in str(parameter.annotation) else int if str(parameter.annotation) == "int" else str
        parser.add_argument(parameter.name, type=kind, help=help_of.get(parameter.name))
    variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    if variadic:
        parser.add_argument(variadic, nargs="*", type=str, default=[], help=help_of.get(variadic))
    parser.add_function_arguments(
        command, as_group=False, skip={*(p.name for p in required), *([variadic] if variadic else []), *spread}, sub_configs=True
    )
    for fields in spread.values():
        fields.add_to(parser)
    return parser, [p.name for p in required], variadic


def _in_order(name: str, words: list[str], known: Iterable[str], lists: Collection[str] = ()) -> list[str]:
    """Options with parts written out, then positionals: argparse would take a variadic positional as empty when an option stands before it.

    Every option but --help takes one value, and no option may be shortened: what is said today must mean the same tomorrow. A hyphen
    in an option's name is an underscore. An option in `lists` takes a JSON list, or one item each time it is given.
    """
    options: list[str] = []
    positionals: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            positionals += queue
            break
        if word in HELP or not word.startswith("--"):
            (options if word in HELP else positionals).append(word)
            continue
        key, equals, value = word[2:].partition("=")
        first, dot, rest = key.partition(".")
        key = f"{first.replace('-', '_')}{dot}{rest}"
        _known(name, key, known)
        if not equals and (not queue or (queue[0].startswith("--") and len(queue[0]) > 2)):
            raise ConfigError(f"--{key} needs a value: --{key} VALUE.")
        value = value if equals else queue.pop(0)
        if key in lists and not value.startswith("["):
            key += "+"
        options.append(f"--{key}={_expand(value, key)}")
    return [*options, *(["--", *positionals] if positionals else [])]


def _known(name: str, key: str, parameters: Iterable[str]) -> None:
    known = [*parameters, "help"]
    first = key.partition(".")[0].rstrip("+")
    if first not in known:
        near = difflib.get_close_matches(first, known, n=1, cutoff=0.5)
        hint = f"did you mean --{near[0]}?" if near else f"framework {name} --help shows its options."
        raise ConfigError(f"framework {name} has no option --{first}; {hint}")


def _asked_part(words: list[str]) -> tuple[str, str | None] | None:
    """The key and the name of `--KEY.help [NAME]`, where it is among the words."""
    for index, word in enumerate(words):
        key, dot, rest = word.removeprefix("--").partition(".help")
        if word.startswith("--") and dot and rest[:1] in ("", "="):
            following = words[index + 1] if index + 1 < len(words) and not words[index + 1].startswith("-") else None
            return key, rest[1:] or following
    return None


def _expand(word: str, key: str) -> str:
    """A word with the part it names written out: a bare name as its import path, a YAML file as its content."""
    family = family_of(key)
    if family is None or word.startswith(("{", "[")):
        return word
    import json

    if is_file(word):
        part, _ = load_part(key.rstrip("+"), share.find(word))
        part = [part] if is_list(key) and isinstance(part, dict) else part
    else:
        import yaml

        given = yaml.safe_load(word)
        part = normalise(key, [given] if is_list(key) and not key.endswith("+") and isinstance(given, str) else given, "the command line")
    return json.dumps(part)


NOISE = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|Given value type: .*|Given value: .*"
    r"|Expected a <class 'NoneType'>\.?|Problem with given class_path '[^']*':|Type \S+.* expects a function or a callable class:"
    r"|Got value: (Namespace\(.*|\{.*)|unsupported value type|Not a valid subclass of .*|Subtypes expect.*|Subclass types expect one of:?"
    r"|- a class path \(str\)|- a dict with.*"
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
