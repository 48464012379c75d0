"""What a report says of runs, worked out of what they left: the summary, the cost, the differences, where each came from.

Runs flow in, plain values flow out, of which the page, the terminal's table and the JSON are made. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from framework.inspection.report.logs import Run, Series

MISSING = "–"
OWN = ("name",)  # differs between any two runs
GROUPS = (
    (
        "Loss and accuracy",
        r"(train|val)/(loss|perplexity|bits_per_byte|accuracy|margin|calibration_error|(chosen|rejected)_reward)$|loss/|eval/",
    ),
    ("Generalisation", r"generalisation/"),
    ("Rewards", r"reward/|val/|rollout/(score|length|finished|not_judged|rlhf_reward|score_length_correlation)"),
    ("Policy", r"policy/|rollout/"),
    ("Optimisation and speed", r"train/(learning_rate|gradient_norm|skipped_steps|\w+_per_second|mfu)$"),
    ("Other", r""),
)
TITLES = {
    "generalisation/train_loss": "training loss between validations",
    "generalisation/gap": "gap: validation loss less training loss",
    "generalisation/reproduced": "continuations reproduced word for word, share",
    "generalisation/ngrams_seen": "n-grams of samples found in the training text, share",
}
ACRONYMS = {"mfu": "MFU", "kl": "KL", "rlhf": "RLHF", "val": "validation", "eval": "evaluation"}


class Panel(NamedTuple):
    """A chart to be: its title and the figures it shows, the dashed ones last."""

    group: str
    title: str
    figures: list[str]


class Cost(NamedTuple):
    """What a run took.

    Attributes:
        steps: optimizer steps.
        item: what it was trained on, in the plural; None where the logs do not say.
        items: how many of these.
        seconds: of training, as the logged throughput says; validation and start-up do not count.
        items_per_second: over all of that time.
        mfu: model FLOPs utilisation, weighted by time.
        flops: floating-point operations of a recipe that trains on every token it reads (6 N + 12 L H Q T each); None for others.
    """

    steps: int
    item: str | None
    items: float | None
    seconds: float | None
    items_per_second: float | None
    mfu: float | None
    flops: float | None


def cost(run: Run) -> Cost:
    """A run's cost, from its curves."""
    steps = max(
        (series.steps[-1] for series in run.series.values() if series.steps), default=run.lineage.get("progress", {}).get("step", 0)
    )
    speed = next((name for name in run.series if re.fullmatch(r"train/\w+_per_second", name)), None)
    if speed is None:
        return Cost(steps, None, None, None, None, None, None)
    item = speed.removeprefix("train/").removesuffix("_per_second")
    counts = dict(run.series.get(f"train/{item}", Series()).finite)
    utilisation = dict(run.series.get("train/mfu", Series()).finite)
    before = seconds = used = 0.0
    for step, rate in run.series[speed].finite:
        if step in counts and rate > 0:
            took = (counts[step] - before) / rate
            seconds, before, used = seconds + took, counts[step], used + took * utilisation.get(step, 0.0)
    if not seconds:
        return Cost(steps, item, None, None, None, None, None)
    each = run.flops_per_token if run.lineage.get("recipe") == "Pretrain" and item == "tokens" else None
    flops = None if each is None else before * each
    return Cost(steps, item, before, seconds, before / seconds, used / seconds if utilisation else None, flops)


def best(run: Run) -> tuple[str, int, float] | None:
    """Its best validation: figure, step, value; by the figure that its checkpoints watch, else loss or reward."""
    watched = run.config.get("checkpoints.monitor"), run.config.get("checkpoints.mode")
    for figure, mode in (watched, ("val/loss", "min"), ("val/reward", "max")):
        if figure in run.series and run.series[figure].finite:
            step, value = (max if mode == "max" else min)(run.series[figure].finite, key=lambda point: point[1])
            return figure, step, value
    return None


def gap(run: Run) -> float | None:
    """By how much the last validation loss is over the training loss there: the monitor's figure, else the newest of both."""
    if "generalisation/gap" in run.series:
        return run.series["generalisation/gap"].last
    held_out, trained = (run.series.get(name, Series()).last for name in ("val/loss", "train/loss"))
    return None if held_out is None or trained is None else held_out - trained


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Settings that are not the same in all runs: key -> a value for each run, MISSING where it has none."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    values = {key: [run.config.get(key, MISSING) for run in runs] for key in keys if key not in OWN}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def parents(run: Run) -> dict[str, str]:
    """What a run began from, by what it was to the run: model, reward model, tokenizer; paths as the configuration has them."""
    found = {}
    for key, value in run.config.items():
        if key.endswith(".path") and run.config.get(key.removesuffix(".path")) == "Pretrained":
            found["tokenizer" if "tokenizer" in key else "model"] = str(value)
        elif key.endswith(".reward_model") and isinstance(value, str):
            found["reward model"] = value
    return found


def panels(runs: Sequence[Run]) -> list[Panel]:
    """Charts in the order of GROUPS: one for each figure, two where training and validation measure the same."""
    names = dict.fromkeys(name for run in runs for name, series in run.series.items() if not is_constant(runs, name) and not is_count(name))
    found: list[Panel] = []
    for name in names:
        other = _held_out(name)
        if any(name == _held_out(each) for each in names):
            continue  # in the other's chart
        figures = [name, other] if other in names else [name]
        title = title_of(name.partition("/")[2] if name.startswith("train/") and other in names else name)
        found.append(Panel(next(group for group, pattern in GROUPS if re.match(pattern, name)), title, figures))
    order = [group for group, _ in GROUPS]
    return sorted(found, key=lambda panel: (order.index(panel.group), panel.title != "loss"))


def _held_out(name: str) -> str:
    """The figure of validation that measures what a figure of training does."""
    return name.replace("train/", "val/", 1) if name.startswith("train/") else f"{name}_validation"


def title_of(name: str) -> str:
    """A figure's name in words."""
    if name in TITLES:
        return TITLES[name]
    family, _, rest = name.rpartition("/")
    prefix = "" if family in ("", "train", "generalisation") else f"{family.replace('/', ' ')}: "
    return re.sub(r"[a-z]+", lambda word: ACRONYMS.get(word[0], word[0]), prefix + rest.replace("_", " "))


def is_count(name: str) -> bool:
    """Whether a figure only counts what was trained on, a straight line: the summary has it."""
    return re.fullmatch(r"train/(tokens|pairs|replies|items)", name) is not None


def is_constant(runs: Sequence[Run], name: str) -> bool:
    """Whether a figure had one value all along in every run that logged it more than once."""
    values = [value for run in runs for value in run.series.get(name, Series()).values]
    return len(values) > 1 and len(set(values)) == 1


def constants(runs: Sequence[Run]) -> dict[str, float | None]:
    """Figures that never changed, and their value."""
    names = dict.fromkeys(name for run in runs for name in run.series if is_constant(runs, name))
    return {name: next(run.series[name].values[0] for run in runs if name in run.series) for name in names}


def as_json(runs: Sequence[Run]) -> dict[str, Any]:
    """All of it as plain values, every point of every curve."""
    return {"runs": [_as_json(run) for run in runs], "differences": differences(runs) if len(runs) > 1 else {}}


def _as_json(run: Run) -> dict[str, Any]:
    found = best(run)
    return {
        "name": run.name,
        "directory": str(run.directory),
        "problems": run.problems,
        "cost": cost(run)._asdict(),
        "parameters": run.parameters,
        "best": None if found is None else dict(zip(("figure", "step", "value"), found)),
        "gap": gap(run),
        "verdicts": run.verdicts,
        "series": {name: {"steps": series.steps, "values": series.values} for name, series in run.series.items()},
        "samples": run.samples,
        "rollouts": run.rollouts,
        "evaluations": run.evaluations,
        "config": run.config,
        "environment": environment(run),
        "lineage": {**lineage(run), "parents": parents(run)},
    }


def environment(run: Run) -> dict[str, Any]:
    """Versions, plugins and the machine's kind, as the model directory has them."""
    plugins = run.manifest.get("plugins") or run.lineage.get("plugins") or {}
    machine = run.lineage.get("environment")
    found = {"framework": run.manifest.get("framework_version"), **(machine if isinstance(machine, dict) else {})}
    return {**{name: value for name, value in found.items() if value}, "plugins": plugins}


def lineage(run: Run) -> dict[str, Any]:
    """Recipe and hashes, as the model directory has them."""
    found = {"recipe": run.lineage.get("recipe"), "model": run.manifest.get("sha256"), "data": run.lineage.get("data")}
    found |= {"tokenizer": run.lineage.get("tokenizer"), "base": run.lineage.get("base_sha256")}
    return {name: value for name, value in found.items() if value}
