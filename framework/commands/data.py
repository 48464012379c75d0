"""`framework data show`: the exact tokens that a recipe would train on, before it does.

A configuration flows in; text on stdout or a page in a file flows out, and an error where the data would train the wrong thing.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.commands.own_options import taken
from framework.errors import ConfigError

if TYPE_CHECKING:
    from framework.batches.base import Batches
    from framework.inspection.tokens import ShownRow

HELP = """usage: framework data show CONFIG [OPTIONS] [further arguments as of framework fit]
       framework data show --recipe NAME [OPTIONS] ...

Show the exact tokens of a recipe's first batches: what is trained, positions, documents. Nothing is trained.

options:
  --batches N        how many batches (default 1)
  --rows N           rows shown of each (default 4; with --html all)
  --table true       every token on a line of its own, with position, document and id
  --html FILE        write a page instead
  --color WHEN       auto (default), always or never"""


DEFAULTS = {"batches": "1", "rows": "4", "table": "false", "html": "", "color": "auto"}


def data(arguments: list[str]) -> int:
    """Show the exact tokens a recipe trains on: framework data show recipes/sft.yaml."""
    if not arguments or arguments[0] in ("-h", "--help") or "--help" in arguments:
        print(HELP)
        return 0 if arguments else ConfigError.exit_code
    if arguments[0] != "show":
        raise ConfigError(f"framework data knows `show`, not {arguments[0]!r}.")
    options, rest = _options(arguments[1:])
    made = prepared(rest)
    from framework.inspection import page, terminal

    batches = [_checked(made, batch, number) for number, batch in enumerate(_batches(made, int(options["batches"])))]
    if options["html"]:
        facts = [
            (name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)) for name, value in made.describe().items()
        ]
        Path(options["html"]).write_text(page.page(f"{type(made).__name__}: what is trained", facts, batches), encoding="utf-8")
        print(f"wrote {options['html']}", file=sys.stderr)
        return 0
    colour = options["color"] == "always" or (options["color"] == "auto" and sys.stdout.isatty())
    print(terminal.legend(colour))
    for number, rows in enumerate(batches):
        print(f"\nbatch {number}")
        for row in rows[: int(options["rows"])]:
            print(*(terminal.table(row) if options["table"] == "true" else terminal.lines(row, colour)), sep="\n")
        if len(rows) > int(options["rows"]):
            print(f"... and {len(rows) - int(options['rows'])} rows more (--rows)")
    return 0


def _options(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """This command's own options, and the words of `fit` that remain."""
    given, rest = taken(words, DEFAULTS)
    options = {**DEFAULTS, **given}
    for name in ("batches", "rows"):
        if not options[name].isdigit() or int(options[name]) < 1:
            raise ConfigError(f"--{name} is {options[name]!r}; it takes a whole number of at least 1.")
    for name, known in (("color", ("auto", "always", "never")), ("table", ("true", "false"))):
        if options[name] not in known:
            raise ConfigError(f"--{name} is {options[name]!r}; it takes one of {', '.join(known)}.")
    return options, rest


def prepared(words: list[str]) -> Batches:
    """The DataModule that a configuration describes, ready to serve. Raises ConfigError as `fit` does."""
    from framework.commands.fit import composed

    composition = composed(words)
    part = composition.config.get("data")
    if not isinstance(part, dict):
        raise ConfigError("the configuration has no data: name a recipe's YAML, or --recipe NAME.")
    import jsonargparse

    from framework.batches.base import Batches
    from framework.commands.arguments import shorten

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Batches, "data", required=True)
    given = [f"--{key}={value}" for key, value in composition.overrides if key.partition(".")[0] == "data"]
    try:
        values = parser.instantiate_classes(parser.parse_args([f"--data={json.dumps(part)}", *given]))
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise ConfigError(shorten(str(error))) from error
    made: Batches = values.data
    made.prepare_data()
    made.setup("fit")
    return made


def _batches(made: Batches, count: int) -> list[Any]:
    from framework.batches.prompts import Prompts

    if isinstance(made, Prompts):
        return [[made.question(number * made.batch_size + row) for row in range(made.batch_size)] for number in range(count)]
    return list(itertools.islice(iter(made.train_dataloader()), count))


def _checked(made: Batches, batch: Any, number: int) -> list[ShownRow]:
    """A batch's rows, after the checks that a run would begin with."""
    from framework.batches.checks import check_any_trained
    from framework.batches.records import Records
    from framework.batches.types import PairBatch, TokenBatch
    from framework.inspection.tokens import prompt_row, shown_rows

    if isinstance(batch, list):
        return [prompt_row(f"prompt {row}", question.ids, made.tokenizer) for row, question in enumerate(batch)]
    if not isinstance(batch, TokenBatch | PairBatch):
        raise ConfigError(f"{type(made).__name__} serves {type(batch).__name__}, of which no tokens can be shown.")
    if isinstance(made, Records):
        made.check(batch, f"batch {number}")
    else:
        check_any_trained(batch[1], f"batch {number}")
    return list(shown_rows(batch, made.tokenizer))
