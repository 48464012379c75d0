"""`framework inspect-training`: one optimizer step of a recipe, looked at. Nothing of it is kept.

A configuration flows in as `fit` takes it; text on stdout, a page and JSON in files flow out.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from framework.commands.own_options import taken
from framework.commands.terminal import note, tolerate_encodings
from framework.errors import ConfigError

if TYPE_CHECKING:
    from framework.inspection.learning.step import Learning

HELP = """usage: framework inspect-training CONFIG [OPTIONS] [further arguments as of framework fit]
       framework inspect-training --recipe NAME [OPTIONS] ...

Take one step of learning and show it: the batch position by position, what the model writes by itself, the computation graph, gradients
checked against finite differences, what the optimizer made of them, the loss before and after. Works on every recipe; no run is left.

options:
  --steps_before N   optimizer steps that are taken first (default 0)
  --rows N           rows of the batch that are shown (default 2)
  --weights W,...    weights to look at, as blocks.0.attention.qkv.weight[3,5] (default: those with the largest gradients)
  --html FILE        write a page
  --json FILE        write the numbers
  --color WHEN       auto (default), always or never"""
OPTIONS = {"steps_before": "0", "rows": "2", "weights": "", "html": "", "json": "", "color": "auto"}


def inspect_training(arguments: list[str]) -> int:
    """Show one step of learning from the inside: framework inspect-training recipes/pretrain.yaml."""
    if not arguments or "-h" in arguments or "--help" in arguments:
        print(HELP)
        return 0 if arguments else ConfigError.exit_code
    tolerate_encodings()
    given, words = taken(arguments, OPTIONS)
    options = {**OPTIONS, **given}
    steps_before, rows = _whole(options, "steps_before", 0), _whole(options, "rows", 1)
    if options["color"] not in ("auto", "always", "never"):
        raise ConfigError(f"--color is {options['color']!r}; it takes one of auto, always, never.")
    found = _look(words, steps_before, rows, options["weights"])
    from framework.inspection.learning.pages import write_json, write_page
    from framework.inspection.learning.terminal import learning_lines

    print(*learning_lines(found, options["color"] == "always" or (options["color"] == "auto" and sys.stdout.isatty())), sep="\n")
    for name, write in (("html", write_page), ("json", write_json)):
        if options[name]:
            write(Path(options[name]), found)
            note(f"wrote {options[name]}")
    return 0


def _whole(options: dict[str, str], name: str, least: int) -> int:
    if not options[name].isdigit() or int(options[name]) < least:
        raise ConfigError(f"--{name} is {options[name]!r}; it takes a whole number of at least {least}.")
    return int(options[name])


def _look(words: list[str], steps_before: int, rows: int, weights: str) -> Learning:
    """Train to the step and through it, in a directory that is gone afterwards."""
    from framework.commands import fit
    from framework.inspection.learning.weights import parse_places, split_places

    places = split_places(weights)
    parse_places(places)  # a misspelt one is told before anything slow
    observer = {
        "class_path": "framework.inspection.learning.pages.OneStep",
        "init_args": {"steps_before": steps_before, "rows": rows, "weights": places},
    }
    with tempfile.TemporaryDirectory(prefix="framework-") as directory:
        kept_apart = ["--runs_dir", directory, "--overwrite", "true", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
        composition = fit.composed([*words, *kept_apart, "--trainer.callbacks+", json.dumps(observer)])
        settings = {**composition.config, **dict(composition.overrides)}
        if settings.get("resume") == "auto":
            raise ConfigError("--resume auto would look in a run that this command does not go on with: name it, --resume runs/NAME.")
        (Path(directory) / settings.get("name", "run")).mkdir(parents=True)  # a resumed run expects its own
        from framework.commands import lightning_cli
        from framework.inspection.learning.pages import Seen

        try:
            lightning_cli.run("fit", composition, fit.plugins_in_use(composition.config))
        except Seen as seen:
            return seen.learning
    raise ConfigError(f"the run ended before its step {steps_before + 1}: lower --steps_before, or raise --trainer.max_steps.")
