"""`fit`, `finetune`, `validate`: LightningCLI over a configuration composed by our rules.

Words flow in, a run directory with checkpoints, logs and a model directory flows out, and an exit code: 0 only when the run
reached its target, 128 + signal when it was stopped and saved.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import yaml

from framework import share
from framework.commands import check
from framework.commands.adapting import take_adapt
from framework.commands.compose import Composition, compose
from framework.commands.part_help import part_help
from framework.errors import ConfigError
from framework.formats import sources
from framework.registry import CORE, Registry, families, registry

PLAIN = ("name", "runs_dir", "resume", "overwrite", "init_from", "seed_everything")
COMMAND_LINE = "the command line"


def fit(arguments: list[str]) -> int:
    """Train what a configuration says: framework fit --config recipes/pretrain.yaml."""
    return _run("fit", arguments)


def finetune(arguments: list[str]) -> int:
    """Run a fine-tuning recipe by name: framework finetune --recipe sft (fit, with the recipe's YAML put first)."""
    name, rest = _take(arguments, "--recipe")
    if name is None:
        if "--help" in rest or "-h" in rest:
            return _run("fit", rest)
        raise ConfigError(f"which recipe? --recipe NAME, one of: {', '.join(_recipe_names()) or 'none installed'}.")
    return _run("fit", [*_recipe(name), *rest])


def validate(arguments: list[str]) -> int:
    """Evaluate a run's newest checkpoint on its validation data: framework validate --config runs/pretrain/config.yaml."""
    return _run("validate", arguments)


def _take(arguments: list[str], option: str) -> tuple[str | None, list[str]]:
    for index, word in enumerate(arguments):
        if word == option and index + 1 < len(arguments):
            return arguments[index + 1], arguments[:index] + arguments[index + 2 :]
        if word.startswith(f"{option}="):
            return word.partition("=")[2], arguments[:index] + arguments[index + 1 :]
    return None, arguments


def _recipe_names() -> list[str]:
    return sorted({file.stem for file in share.files("recipes")})


def _recipe(name: str) -> list[str]:
    """The arguments that `--recipe NAME` stands for: the YAML of that name, else the recipe class."""
    for file in share.files("recipes"):
        if file.stem == name:
            return ["--config", str(file)]
    folded = name.replace("-", "").replace("_", "").lower()
    for known in registry("framework.recipes"):
        if known.lower() == folded:
            return ["--model", known]
    import difflib

    near = difflib.get_close_matches(name, _recipe_names(), n=1)
    raise ConfigError(f"there is no recipe {name!r}{f'; did you mean {near[0]}?' if near else ''} (recipes: {', '.join(_recipe_names())}).")


def composed(arguments: list[str]) -> Composition:
    """The configuration that the words after `fit` (with `--recipe NAME` those after `finetune`) describe, checked, without its flags' effects."""
    from framework.commands import lightning_cli

    name, rest = _take(arguments, "--recipe")
    composition = compose(rest if name is None else [*_recipe(name), *rest])
    if composition.flags:
        raise ConfigError(f"{composition.flags[0]} has no effect here; leave it out.")
    _take_init_from(composition)
    check.check(composition, lightning_cli.sections(), PLAIN)
    take_adapt(composition)
    _share_seed(composition)
    return composition


def _run(subcommand: str, arguments: list[str]) -> int:
    composition = compose(arguments)
    if not composition.flags:
        _take_init_from(composition)
    import warnings

    warnings.filterwarnings("ignore", category=DeprecationWarning)
    from framework.commands import lightning_cli
    from framework.training.stopping import Stopped

    if help_flag := next((flag for flag in composition.flags if flag.partition("=")[0].endswith(".help")), None):
        print(_part_help(composition, help_flag, lightning_cli.sections()))
        return 0
    check.check(composition, lightning_cli.sections(), PLAIN)
    if not composition.flags:
        take_adapt(composition)
    _share_seed(composition)
    _place_logs(composition)
    try:
        lightning_cli.run(subcommand, composition, plugins_in_use(composition.config))
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    return 0


def _take_init_from(composition: Composition) -> None:
    """`--init_from SOURCE`: network, tokenizer and, where it has one, chat template come from a model directory.

    Naming network or tokenizer beside it is an error; a network that wraps another gets it as its base.
    """
    source = next((value for key, value in reversed(composition.overrides) if key == "init_from"), None)
    origin = COMMAND_LINE if source is not None else composition.origin(("init_from",))
    source = source if source is not None else composition.config.pop("init_from", None)
    composition.forget("init_from")
    if source is None or source == "null":
        return
    directory = sources.directory(source)
    for key, family in ((_network_key(composition), "networks"), ("data.tokenizer", "tokenizers")):
        there = composition.get(key)
        where = composition.origin(composition.full_path(key))
        if there is not None and where.partition(":")[0] == origin.partition(":")[0]:
            raise ConfigError(
                f"--init_from {source} brings the {key.rpartition('.')[2]}, and {key} is given too (from {where}); leave one of them out."
            )
        if there is not None:
            print(f"note: {key} comes from {source} instead of {where}", file=sys.stderr)
        composition.set(key, {"class_path": f"framework.{family}.Pretrained", "init_args": {"path": str(directory)}}, origin)
    _take_template(composition, source, directory, origin)


def _take_template(composition: Composition, source: str, directory: Path, origin: str) -> None:
    """The chat template of --init_from's model, unless another was asked for where --init_from was, or later."""
    key = "data.chat_template"
    there, where = composition.get(key), composition.origin(composition.full_path(key))
    asked = there is not None and where.partition(":")[0] == origin.partition(":")[0]
    if asked or any(name.replace("init_args.", "") == key for name, _ in composition.overrides):
        return
    if _takes(composition, "data", "chat_template") and _has_template(directory):
        if there is not None:
            print(f"note: {key} comes from {source} instead of {where}", file=sys.stderr)
        composition.set(key, str(directory.resolve()), origin)


def _network_key(composition: Composition) -> str:
    """The key of the network that weights are loaded into: the innermost base of those that wrap one (LoRA, a scalar head)."""
    key = "model.network"
    while _takes(composition, key, "base"):
        key = f"{key}.base"
    return key


def _takes(composition: Composition, key: str, parameter: str) -> bool:
    """Whether the class of the part at `key` has a parameter of that name."""
    part = composition.get(key)
    if not isinstance(part, dict) or not isinstance(part.get("class_path"), str):
        return False
    kind = check.load(part["class_path"], composition.origin((*composition.full_path(key), "class_path")))
    return parameter in inspect.signature(kind).parameters


def _has_template(directory: Path) -> bool:
    from framework.chat import ChatTemplate

    return ChatTemplate.load(directory) is not None


def _part_help(composition: Composition, flag: str, sections: dict[str, Any]) -> str:
    """What `--KEY.help=NAME` asks for; without a name it is about the part that the configuration has there."""
    key, _, name = flag.removeprefix("--").partition(".help")
    there = composition.get(key)
    there = there[-1] if isinstance(there, list) and there else there
    kind = check.load(there["class_path"], "the configuration") if isinstance(there, dict) and "class_path" in there else sections.get(key)
    return part_help(key, name.removeprefix("=") or None, kind)


def _share_seed(composition: Composition) -> None:
    """One `seed_everything` decides everything: recipe and data take it unless they are given a seed of their own."""
    seed = next(
        (value for key, value in reversed(composition.overrides) if key == "seed_everything"), composition.config.get("seed_everything", 0)
    )
    seed = yaml.safe_load(str(seed))
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed_everything is {seed!r}; it takes a whole number from 0 to {2**32 - 1}, so that the run can be repeated.")
    for section in ("model", "data"):
        part = composition.config.get(section)
        if not isinstance(part, dict) or "class_path" not in part:
            continue
        kind = check.load(part["class_path"], composition.origin((section, "class_path")))
        if "seed" in inspect.signature(kind).parameters:
            part.setdefault("init_args", {}).setdefault("seed", seed)


def _place_logs(composition: Composition) -> None:
    """Loggers that need a directory write to the run's `logs/` unless they are told another."""
    loggers = composition.get("trainer.logger")
    settings = {**composition.config, **dict(composition.overrides)}
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, dict) and str(logger.get("class_path")).rpartition(".")[2] in (
            "CSVLogger",
            "TensorBoardLogger",
            "WandbLogger",
        ):
            arguments = logger.setdefault("init_args", {})
            arguments.setdefault("save_dir", str(Path(settings.get("runs_dir", "runs")) / settings.get("name", "run") / "logs"))
            if str(logger["class_path"]).endswith("WandbLogger"):
                arguments.setdefault("name", settings.get("name", "run"))


def plugins_in_use(config: Any) -> dict[str, str]:
    """Distribution -> version of every third-party part that a configuration names."""
    found: dict[str, str] = {}
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "class_path":
                part = _part(str(value))
                if part is not None and part.distribution != CORE:
                    found[part.distribution] = part.version
            else:
                found.update(plugins_in_use(value))
    elif isinstance(config, list):
        for item in config:
            found.update(plugins_in_use(item))
    return found


def _part(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    for family in families():
        parts = Registry(family)
        for part in parts.parts():
            if (family == module and part.name == name) or part.target.replace(":", ".") == class_path:
                return part
    return None
