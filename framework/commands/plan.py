"""`framework plan`: what a run would take, before it is started. Imports no torch unless a probe is asked for.

A configuration flows in as `fit` takes it; the plan flows out as text on stdout, as JSON and as a page in files.
"""

from __future__ import annotations

import copy
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from framework.commands.compose import Composition, compose
from framework.commands.own_options import taken
from framework.errors import ConfigError
from framework.planner import hardware, report
from framework.planner.estimate import MFU, Plan, peak_flops
from framework.planner.estimate import plan as planned
from framework.planner.run import Run, describe
from framework.planner.settings import Part

HELP = """usage: framework plan CONFIG [OPTIONS] [further arguments as of framework fit]

What a run would take before it is started: parameters, operations, memory, time, money, and how far it is from compute-optimal.

options:
  --hardware NAME    the device: h100, h200, a100-80, a100-40, l4, rtx-4090, t4, mi300x, b200, ... or cpu (this machine)
  --gpus N           how many of them (default: the configuration's devices)
  --price P          of a device for an hour
  --mfu SHARE        of the peak that is reached (default 0.40), or what --probe measures
  --budget AMOUNT    compute-optimal sizes for it: 1e21 (FLOPs), 24h (of the hardware) or 500usd (at the price)
  --probe N          run N steps on this machine and measure them
  --json FILE        the plan as JSON
  --html FILE        the plan as a page"""

OPTIONS = ("hardware", "gpus", "price", "mfu", "budget", "probe", "json", "html")


@dataclass(frozen=True)
class Asked:
    """This command's own options.

    Attributes:
        device: None: none was named.
        gpus: None: the configuration's.
        price, mfu, budget, probe, json, html: as given; None: not.
    """

    device: hardware.Device | None = None
    gpus: int | None = None
    price: float | None = None
    mfu: float | None = None
    budget: str | None = None
    probe: int | None = None
    json: Path | None = None
    html: Path | None = None


def plan(arguments: list[str]) -> int:
    """Say what a run would take, before it is started: framework plan recipes/pretrain.yaml --hardware h100."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0 if arguments else ConfigError.exit_code
    given, rest = taken(arguments, OPTIONS)
    asked = _asked(given)
    config = configuration(rest)
    run = describe(_started(config), asked.gpus)
    measured = None
    if asked.probe is not None:
        from framework.commands import plan_probe

        measured = plan_probe.measure(config, run, asked.probe, machine_memory())
        asked = replace(asked, device=asked.device or measured.device)
    made = planned(run, asked.device, asked.price, asked.mfu, _budget(asked, run))
    if measured is not None:
        made = plan_probe.calibrated(made, measured, asked.price)
    sections = [*report.sections(made), *([] if measured is None else [plan_probe.section(measured)])]
    print(report.text(sections))
    _write(asked, made, sections, None if measured is None else measured.as_json())
    return 0


def _write(asked: Asked, made: Plan, sections: Sequence[report.Section], probe: dict[str, Any] | None) -> None:
    from framework.files import write_durably

    if asked.json is not None:
        values = json.dumps({**made.as_json(), "probe": probe}, indent=2) + "\n"
        write_durably(asked.json, lambda file: file.write(values.encode()))
    if asked.html is not None:
        from framework.commands.plan_page import page

        html = page(made, sections)
        write_durably(asked.html, lambda file: file.write(html.encode()))
    for file in (asked.json, asked.html):
        if file is not None:
            print(f"wrote {file}", file=sys.stderr)


# the command line


def _asked(given: dict[str, str]) -> Asked:
    gpus = None if "gpus" not in given else _whole("gpus", given["gpus"])
    price = None if "price" not in given else _positive("price", given["price"])
    mfu = None if "mfu" not in given else _positive("mfu", given["mfu"])
    if mfu is not None and mfu > 1:
        raise ConfigError(f"--mfu is {given['mfu']}; it is a share of the peak, over 0 and at most 1.")
    probe = None if "probe" not in given else _whole("probe", given["probe"])
    device = None
    if "hardware" in given:
        device = hardware.machine(machine_memory()) if given["hardware"] == "cpu" else hardware.device(given["hardware"])
    files = {name: Path(given[name]) for name in ("json", "html") if name in given}
    for name, file in files.items():
        if file.is_dir():
            raise ConfigError(f"--{name} {file} is a directory; name a file in it.")
    return Asked(device, gpus, price, mfu, given.get("budget"), probe, files.get("json"), files.get("html"))


def _whole(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ConfigError(f"--{name} is {text!r}; it takes a whole number of at least 1.")
    return int(text)


def _positive(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigError(f"--{name} is {text!r}; it takes a number over 0.")
    return value


def _budget(asked: Asked, run: Run) -> float | None:
    """The budget in FLOPs."""
    if asked.budget is None:
        return None
    text = asked.budget.strip().lower()
    is_money, is_time = text.endswith("usd") or text.startswith("$"), text.endswith("h")
    amount = _positive("budget", text.removesuffix("usd").removesuffix("h").removesuffix("flops").removeprefix("$"))
    if not (is_money or is_time):
        return amount
    peak = 0.0 if asked.device is None else peak_flops(asked.device, run.precision.product)
    if not peak or (is_money and asked.price is None):
        raise ConfigError(f"--budget {asked.budget} needs --hardware NAME{' and --price P' if is_money else ''} to say what it buys.")
    hours = amount if is_time else amount / ((asked.price or 1.0) * run.devices)
    return hours * 3600 * run.devices * peak * (MFU if asked.mfu is None else asked.mfu)


def machine_memory() -> float:
    """Bytes of this machine's memory."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


# the configuration


def configuration(arguments: list[str]) -> dict[str, Any]:
    """What `framework fit` would parse, with every argument applied. Raises ConfigError."""
    composition = compose(arguments)
    if composition.flags:
        raise ConfigError(f"{composition.flags[0]} has no effect here; leave it out.")
    for key, value in list(composition.overrides):
        _apply(composition, key, yaml.safe_load(value))
    return composition.config


def _apply(composition: Composition, key: str, value: Any) -> None:
    name = key.rstrip("+")
    there = composition.get(name) if key.endswith("+") else None
    if key.endswith("+"):
        value = [
            *(there if isinstance(there, list) else [] if there is None else [there]),
            *(value if isinstance(value, list) else [value]),
        ]
    composition.set(name, value, "the command line")


def _started(config: Mapping[str, Any]) -> dict[str, Any]:
    """With the network (below what wraps one) and the tokenizer of the model that the run starts from."""
    started = copy.deepcopy(dict(config))
    source, adapt = started.pop("init_from", None), dict(started.pop("adapt", None) or {})
    if source is None and adapt:
        raise ConfigError(f"adapt.{next(iter(adapt))} is about the model that a run starts from: give --init_from SOURCE, or leave it out.")
    if source is None:
        return started
    from framework.formats import sources

    composition = Composition(started)
    directory = str(sources.directory(source))
    key = "model.network"
    quantize = adapt.pop("quantize", None)
    while (value := composition.get(key)) is not None and Part(value, key).takes("base"):
        if quantize is not None and Part(value, key).name == "LoRA":
            composition.set(f"{key}.quantize", quantize, "adapt")
        key += ".base"
    for place, family in ((key, "networks"), ("data.tokenizer", "tokenizers")):
        composition.set(place, {"class_path": f"framework.{family}.Pretrained", "init_args": {"path": directory}}, "init_from")
    if adapt:
        composition.set(f"{key}.adapt", adapt, "adapt")
    if adapt.get("new_tokens"):
        composition.set("data.tokenizer.new_tokens", adapt["new_tokens"], "adapt")
    return composition.config
