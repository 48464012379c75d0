"""A dataclass's fields as options of a command: declared once, in the dataclass, and given by the same names everywhere.

A dataclass flows in, options flow into a parser, and what was parsed flows out as an object of it. Imports no torch: a dataclass is
imported only when a command parses its words.
"""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import re
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from framework.errors import ConfigError

Command = TypeVar("Command", bound=Callable[..., Any])


class Fields:
    """Which fields of a dataclass are options.

    Args:
        kind: a dataclass whose fields all have defaults.
        without: fields that are no options and keep their defaults.
    """

    def __init__(self, kind: type[Any], without: Collection[str] = ()) -> None:
        fields = {field.name: field for field in dataclasses.fields(kind)}
        assert set(without) <= set(fields), f"{kind.__name__} has no field {set(without) - set(fields)}"
        self.kind = kind
        self._fields = {name: field for name, field in fields.items() if name not in without}
        self._hints = get_type_hints(kind)

    @property
    def names(self) -> list[str]:
        """The options, in the order of the fields."""
        return list(self._fields)

    @property
    def lists(self) -> set[str]:
        """The options that hold a list of plain values: a single word adds one."""
        return {name for name in self._fields if any(_is_list(kind) for kind in _alternatives(self._hints[name]))}

    def add_to(self, parser: Any) -> None:
        """Add the options to a jsonargparse parser, with the help that the dataclass and those it is made from give them."""
        help_of = {name: text for kind in reversed(self.kind.__mro__) for name, text in argument_help(inspect.getdoc(kind) or "").items()}
        for name, field in self._fields.items():
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            hint = " A JSON list, or one each time the option is given." if name in self.lists else ""
            parser.add_argument(f"--{name}", type=self._hints[name], default=default, help=f"{help_of.get(name, '')}{hint}")

    def build(self, values: Mapping[str, Any]) -> Any:
        """The object that parsed values stand for; values of other options are passed over."""
        return self.kind(**{name: values[name] for name in self._fields})

    def parse(self, name: str, word: str) -> Any:
        """The value that a word gives one option. Raises ConfigError for a word that is of another type."""
        import jsonargparse

        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        self.add_to(parser)
        add = "+" if name in self.lists and not word.startswith("[") else ""
        try:
            return getattr(parser.instantiate_classes(parser.parse_args([f"--{name}{add}={word}"])), name)
        except jsonargparse.ArgumentError:
            kind = self._fields[name].type
            raise ConfigError(f"{name} cannot be {word!r}: it is {kind}") from None


def spread(parameter: str, target: str, without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Makes the fields of a dataclass options of a command, which gets them as one object.

        @spread("settings", "framework.generation:Settings", without={"n"})
        def generate(directory: Path, *, settings: Settings) -> None: ...

    Args:
        parameter: the command's keyword parameter that takes the object.
        target: the dataclass as MODULE:NAME; imported when the command parses its words.
        without: fields that are no options.
    """

    def mark(command: Command) -> Command:
        command.__dict__.setdefault("spreads", {})[parameter] = (target, frozenset(without))
        return command

    return mark


def spreads(command: Callable[..., Any]) -> dict[str, Fields]:
    """Parameter -> its fields, of a command that `spread` marked."""
    marked: dict[str, tuple[str, frozenset[str]]] = getattr(command, "spreads", {})
    return {parameter: Fields(pkgutil.resolve_name(target), without) for parameter, (target, without) in reversed(marked.items())}


def argument_help(docstring: str) -> dict[str, str]:
    """Parameter -> its line in the `Args:` section."""
    section = docstring.partition("Args:\n")[2].split("\n\n")[0]
    return {m[1]: " ".join(m[2].split()) for m in re.finditer(r"^ {4}(\w+): (.+(?:\n {6,}.+)*)", section, re.MULTILINE)}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_list(hint: Any) -> bool:
    origin = get_origin(hint)
    return (
        inspect.isclass(origin) and issubclass(origin, Collection) and not issubclass(origin, Mapping) and get_args(hint)[0] in (str, int)
    )
