"""`framework plan --probe N`: some real steps of the very run, measured on this machine. Imports torch.

A configuration flows in and is trained in a temporary directory; seconds, bytes and what follows from them flow out.
"""

from __future__ import annotations

import copy
import gc
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from framework.networks.transformer import Transformer
from framework.planner import memory
from framework.planner.estimate import Duration, Plan
from framework.planner.hardware import Device, named_by_torch
from framework.planner.report import Section, size
from framework.planner.run import Run
from framework.planner.tracked import TrackedTensors, alive, storage_key

WARM_UP = 2  # steps before the clock starts: memory is taken, kernels are chosen, the first replies are written


@dataclass(frozen=True)
class Probe:
    """What was measured, on one device.

    Attributes:
        device: the machine's.
        name: what torch calls it.
        steps: that were timed.
        seconds_per_step: their mean.
        length: tokens of a row, their mean.
        tokens_per_second: of the rows as they were.
        flops_per_second: the run's own operations.
        peak_flops: of the device: its datasheet's, or of large matrix products just now.
        tensor_bytes: the most that tensors took in a step; None where that could not be seen.
        predicted_bytes: what the plan said of it.
        process_bytes: the most that the process ever took (RSS).
    """

    device: Device
    name: str
    steps: int
    seconds_per_step: float
    length: int
    tokens_per_second: float
    flops_per_second: float
    peak_flops: float
    tensor_bytes: int | None
    predicted_bytes: int
    process_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def duration(self, run: Run, price: float | None) -> Duration:
        """The run's time at the measured pace: each of its devices does what this one did."""
        hours = run.steps * self.seconds_per_step / 3600
        assumption = f"as {self.steps} steps took {self.seconds_per_step:.4g} s each on {self.name}, with rows of {self.length:,} tokens"
        return Duration(hours, 0.0, self.flops_per_second, assumption, None if price is None else hours * run.devices * price)


def measure(config: Mapping[str, Any], run: Run, steps: int, memory_bytes: float) -> Probe:
    """Run the configuration for some steps on one device of this machine.

    Args:
        config: composed, with `init_from` as it was given.
        run: what `describe` made of it.
        steps: to be timed; more where replies are written, so that whole rollouts are.
        memory_bytes: of this machine.
    """
    from framework.commands.compose import absolute_paths
    from framework.commands.fit import fit
    from framework.training.peak import peak_flops

    alone = replace(run, devices=1, sharded=False)
    steps = _whole_rollouts(alone, steps)
    with tempfile.TemporaryDirectory(prefix="framework-probe-") as directory, _Watch(steps) as watch:
        file = Path(directory) / "probe.yaml"
        file.write_text(yaml.safe_dump(absolute_paths(_shortened(config, steps, directory)), sort_keys=False), encoding="utf-8")
        fit(["--config", str(file)])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"this CPU ({torch.get_num_threads()} threads)"
    if device.type == "cuda":
        memory_bytes = torch.cuda.get_device_properties(device).total_memory
    known = named_by_torch(name) if device.type == "cuda" else None
    rows = alone.batch.rows * alone.accumulate * len(alone.trained) * steps
    length = round(watch.tokens / rows) or alone.batch.length  # networks of plugins are not looked at
    seen = replace(alone, steps=steps, batch=replace(alone.batch, length=length))
    counted = replace(alone, batch=replace(alone.batch, length=watch.longest or alone.batch.length))
    return Probe(
        device=known or Device("cpu" if device.type == "cpu" else name, (), 0.0, 0.0, memory_bytes, 0.0, "this machine"),
        name=name,
        steps=steps,
        seconds_per_step=watch.seconds / steps,
        length=length,
        tokens_per_second=seen.tokens / watch.seconds,
        flops_per_second=sum(work.flops for work in seen.work()) / watch.seconds,
        peak_flops=peak_flops(device),
        tensor_bytes=watch.tensor_bytes,
        predicted_bytes=memory.peak(counted.settings(on_cpu=device.type == "cpu")).total,
        process_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    )


def section(probe: Probe) -> Section:
    """What was measured, for the report."""
    memory_said = f"{size(probe.predicted_bytes)} were predicted for rows of that step's length; the process took {size(probe.process_bytes)} at most (RSS, Python and torch included)"
    if probe.tensor_bytes is not None:
        ratio = probe.predicted_bytes / probe.tensor_bytes
        memory_said = f"tensors took {size(probe.tensor_bytes)} at most, {memory_said}: {ratio:.2f} of what was seen"
    return Section(
        f"probe: {probe.steps} steps on {probe.name}",
        [],
        [
            f"{probe.seconds_per_step:.4g} s a step, rows of {probe.length:,} tokens, {probe.tokens_per_second:,.0f} tokens/s, {probe.flops_per_second / 1e12:.4g} TFLOP/s: "
            f"{probe.flops_per_second / probe.peak_flops:.1%} of its {probe.peak_flops / 1e12:.4g}",
            memory_said,
        ],
    )


def calibrated(plan: Plan, probe: Probe, price: float | None) -> Plan:
    """The plan with the measured time, where it is for the machine that was measured."""
    if plan.device is None or plan.device.name != probe.device.name:
        return plan
    return replace(plan, duration=probe.duration(plan.run, price))


def _whole_rollouts(run: Run, steps: int) -> int:
    """At least so many steps, of whole rollouts."""
    if run.rollouts is None:
        return steps
    cycle = max(1, run.rollouts.size * run.rollouts.epochs // (run.items * run.accumulate))
    return -(-steps // cycle) * cycle


def _shortened(config: Mapping[str, Any], steps: int, directory: str) -> dict[str, Any]:
    """The same run: fewer steps, one device, a constant rate, no validation, nothing written elsewhere."""
    short = copy.deepcopy(dict(config)) | {"name": "probe", "runs_dir": directory, "overwrite": True}
    short.pop("resume", None)
    trainer = dict(short.get("trainer") or {})
    for name in ("callbacks", "max_time", "val_check_interval", "fast_dev_run"):
        trainer.pop(name, None)
    total = WARM_UP + steps + 1
    trainer |= {"max_steps": total, "devices": 1, "num_nodes": 1, "strategy": "auto", "accelerator": "auto"}
    trainer |= {"logger": False, "limit_val_batches": 0, "log_every_n_steps": total}
    short["trainer"], short["checkpoints"] = trainer, {"every_n_steps": total}
    short["model"]["init_args"].pop("scheduler", None)
    return short


class _Watch:
    """Looks on at every optimizer step: times those after the warm-up, then counts the tensors of one more.

    Attributes:
        seconds: of the timed steps together.
        tokens: that went through networks that learn in those.
        longest: tokens of a row of the counted step, at most.
        tensor_bytes: the most at one moment of the counted step.
    """

    def __init__(self, steps: int) -> None:
        self._steps, self._done, self._begin = steps, 0, 0.0
        self._tracked: TrackedTensors | None = None
        self._before: set[int] = set()
        self._hooks: list[RemovableHandle] = []
        self.tokens = self.longest = 0
        self.seconds, self.tensor_bytes = 0.0, None if torch.cuda.is_available() else 0

    def __enter__(self) -> _Watch:
        self._before = {storage_key(tensor) for tensor in alive()}  # of whoever else uses this process
        self._handle = register_optimizer_step_post_hook(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        for hook in (self._handle, *self._hooks):
            hook.remove()
        self._stop()

    def _look(self, *_: object) -> None:
        self._done += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self._done == WARM_UP:
            networks = [thing for thing in gc.get_objects() if issubclass(type(thing), Transformer)]
            self._hooks = [network.register_forward_pre_hook(self._read) for network in networks]
            self._begin = time.perf_counter()
        elif self._done == WARM_UP + self._steps:
            self.seconds = time.perf_counter() - self._begin
            self._start()
        elif self._done == WARM_UP + self._steps + 1:
            self._stop()

    def _read(self, network: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        """Count what a network reads in order to learn: the ids, its first argument."""
        if not torch.is_grad_enabled():
            return
        if self._done < WARM_UP + self._steps:
            self.tokens += arguments[0].numel()
        else:
            self.longest = max(self.longest, arguments[0].shape[1])

    def _start(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return
        self._tracked = TrackedTensors(tensor for tensor in alive() if storage_key(tensor) not in self._before)
        self._tracked.__enter__()  # type: ignore[no-untyped-call]

    def _stop(self) -> None:
        if self._tracked is not None:
            self._tracked.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self.tensor_bytes, self._tracked = self._tracked.peak_bytes, None
        elif torch.cuda.is_available() and self._done > WARM_UP + self._steps:
            self.tensor_bytes = torch.cuda.max_memory_allocated()
