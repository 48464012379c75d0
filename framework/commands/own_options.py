"""The options of a command that takes a configuration as `fit` does and a few of its own beside it. No torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from framework.errors import ConfigError


def taken(words: Sequence[str], own: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """The command's own options that were given, and the words of `fit` that remain; the first bare word is the configuration.

    Args:
        words: of the command line, without the command.
        own: names of its own options, with underscores.

    Raises:
        ConfigError: an option of its own lacks its value.
    """
    options: dict[str, str] = {}
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if word.startswith("--") and name in own:
            if not equals and not queue:
                raise ConfigError(f"--{name} needs a value.")
            options[name] = value if equals else queue.pop(0)
        elif not rest and not word.startswith("-"):
            rest += ["--config", word]
        else:
            rest.append(word)
    return options, rest
