"""The plan of a run: parameters, operations, memory, time, money, and how far it is from compute-optimal. Imports no torch.

A run and a device flow in, one object of plain values flows out, which `terminal` and a page draw and JSON keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from framework.planner import chinchilla, memory
from framework.planner.blueprint import PARTS, Blueprint
from framework.planner.hardware import Device
from framework.planner.run import Run, Work

PETAFLOP_DAY = 1e15 * 86400
MFU = 0.40  # share of the peak that training reaches
MFU_SOURCE = "as Llama 3 was trained on H100s: 38 to 43%, arXiv 2407.21783; small networks reach less"
BANDWIDTH_SHARE = (
    0.60  # of the memory's bandwidth that decoding reaches: engines for one sequence reach 60 to 80% where weights are read whole
)


@dataclass(frozen=True)
class PartCount:
    """Parameters of one part of a network."""

    network: str
    part: str
    parameters: int
    trained: int


@dataclass(frozen=True)
class Operations:
    """What is computed.

    Attributes:
        per_token: of training, for one token.
        work: by kind.
        total: of the whole run, as models' FLOPs are counted: what checkpointing computes again left out.
        recomputed: that.
    """

    per_token: int
    work: tuple[Work, ...]
    total: int
    recomputed: int

    @property
    def petaflop_days(self) -> float:
        """The total in petaflop/s-days."""
        return petaflop_days(self.total)


@dataclass(frozen=True)
class Placement:
    """The memory of one way of dividing the run.

    Attributes:
        name: the way.
        moments: bytes by component.
        peak_bytes: the most at one moment.
        fits: whether that leaves room on the device; None without a device.
        largest_rows: rows of the largest micro-batch that fits; None without a device.
    """

    name: str
    moments: tuple[memory.Moment, ...]
    peak_bytes: int
    fits: bool | None
    largest_rows: int | None


@dataclass(frozen=True)
class Duration:
    """Time and money.

    Attributes:
        hours: of the run.
        generation_hours: of them for writing replies.
        flops_per_second: that a device reaches.
        assumption: where that comes from.
        cost: of all devices; None without a price.
    """

    hours: float
    generation_hours: float
    flops_per_second: float
    assumption: str
    cost: float | None


@dataclass(frozen=True)
class Scaling:
    """How a budget is best divided between parameters and tokens.

    Attributes:
        flops: the budget, 6 N D.
        is_own: whether it is what the run itself takes.
        optima: by each approach.
        tokens_a_parameter: of the run.
        excess: nats a token that the run's division loses against the best one for its own 6 N D, by the fitted losses, in their world.
    """

    flops: float
    is_own: bool
    optima: tuple[chinchilla.Optimum, ...]
    tokens_a_parameter: float
    excess: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """All of it."""

    run: Run
    device: Device | None
    parts: tuple[PartCount, ...]
    operations: Operations
    placements: tuple[Placement, ...]
    duration: Duration | None
    scaling: Scaling | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        run = self.run
        facts = {
            "recipe": run.recipe,
            "steps": run.steps,
            "tokens_per_step": run.tokens_per_step,
            "tokens": run.tokens,
            "devices": run.devices,
        }
        facts |= {"precision": run.precision.name, "optimizer": run.optimizer.name, "shape": asdict(run.network.shape)}
        facts |= {"vocab_size": run.network.vocab_size, "rows": run.batch.rows, "length": run.batch.length, "notes": list(run.notes)}
        operations = {**asdict(self.operations), "petaflop_days": self.operations.petaflop_days}
        operations["work"] = [work._asdict() for work in self.operations.work]
        return {
            "run": facts,
            "device": None if self.device is None else asdict(self.device),
            "parameters": [asdict(part) for part in self.parts],
            "operations": operations,
            "memory": [asdict(placement) for placement in self.placements],
            "time": None if self.duration is None else asdict(self.duration),
            "compute_optimal": None if self.scaling is None else asdict(self.scaling),
        }


def plan(
    run: Run, device: Device | None = None, price: float | None = None, mfu: float | None = None, budget_flops: float | None = None
) -> Plan:
    """The plan of a run.

    Args:
        run: from `describe`.
        device: that it runs on; None: memory, but neither what fits nor time.
        price: of a device for an hour, in any currency.
        mfu: share of the peak; None: what large runs have reached.
        budget_flops: what compute-optimal sizes are for; None: what the run itself takes, where it is a pretraining.
    """
    return Plan(
        run,
        device,
        tuple(_parts(run)),
        operations(run),
        tuple(_placements(run, device)),
        _duration(run, device, price, mfu),
        _scaling(run, budget_flops),
    )


def petaflop_days(flops: float) -> float:
    """Operations in petaflop/s-days."""
    return flops / PETAFLOP_DAY


def operations(run: Run) -> Operations:
    """What the run computes."""
    work = run.work()
    per_token = sum(part.network.flops_per_token(run.batch.length) for part in run.trained)
    return Operations(per_token, tuple(work), sum(each.flops for each in work), sum(each.recomputed for each in work))


def peak_flops(device: Device, product_bytes: int) -> float:
    """FLOP/s of the type that products run in; 0 where it has to be measured."""
    return device.half_flops if product_bytes == 2 else device.single_flops if product_bytes == 4 else 0.0


def _parts(run: Run) -> list[PartCount]:
    names = ["policy", "critic"] if len(run.trained) > 1 else ["network"]
    found = [part for name, trained in zip(names, run.trained) for part in _parts_of(name, trained.network)]
    for kept in run.kept:
        if not kept.is_policy:
            found.append(PartCount(kept.name, "all, frozen", kept.network.num_parameters, 0))
    return found


def _parts_of(name: str, network: Blueprint) -> list[PartCount]:
    found: list[PartCount] = []
    for part in PARTS:
        weights = [weight for weight in network.weights if weight.part == part]
        sizes = {weight.name: weight.size - network.padding.get(weight.name, 0) for weight in weights}
        if weights:
            trained = sum(sizes[weight.name] for weight in weights if weight.trained)
            found.append(PartCount(name, part, sum(sizes.values()), trained))
    return found


def _placements(run: Run, device: Device | None) -> list[Placement]:
    """The run's own way first; with several devices the other one too."""
    settings = run.settings(on_cpu=device is not None and device.name == "cpu")
    ways = [settings] if run.devices == 1 else [settings, replace(settings, sharded=not settings.sharded)]
    return [_placement(way, device) for way in ways]


def _placement(settings: memory.Settings, device: Device | None) -> Placement:
    name = "one device" if settings.devices == 1 else "sharded (FSDP2)" if settings.sharded else "a copy on each device (DDP)"
    peak = memory.peak(settings).total
    fits = None if device is None else peak <= memory.HEADROOM * device.memory_bytes
    largest = None if device is None else memory.largest_rows(settings, device.memory_bytes)
    return Placement(name, tuple(memory.moments(settings)), peak, fits, largest)


def _duration(run: Run, device: Device | None, price: float | None, mfu: float | None) -> Duration | None:
    if device is None:
        return None
    peak = peak_flops(device, run.precision.product)
    if not peak:
        return None
    share = MFU if mfu is None else mfu
    source = f"--mfu; {MFU:.0%} is usual" if mfu is not None else MFU_SOURCE
    kind = "bf16" if run.precision.product == 2 else "fp32 (tensor cores unused)"
    assumption = f"{share:.0%} of the {kind} peak of {peak / 1e12:,.4g} TFLOP/s ({source})"
    return duration(run, peak * share, device.bandwidth, assumption, price)


def duration(run: Run, flops_per_second: float, bandwidth: float, assumption: str, price: float | None) -> Duration:
    """Time at a rate that a device reaches.

    Writing replies is slower than its operations say: each new token of all replies reads every weight once, at the memory's bandwidth.
    """
    rate = flops_per_second * run.devices
    training = sum(work.flops + work.recomputed for work in run.work() if work.name != "generation")
    generation = sum(work.flops for work in run.work() if work.name == "generation") / rate
    if run.rollouts is not None and bandwidth:
        generation = max(generation, _decoding_seconds(run, bandwidth))
    hours = (training / rate + generation) / 3600
    cost = None if price is None else hours * run.devices * price
    return Duration(hours, generation / 3600, flops_per_second, assumption, cost)


def _decoding_seconds(run: Run, bandwidth: float) -> float:
    rollouts = run.rollouts
    assert rollouts is not None
    replies = run.batch.rows * run.accumulate * run.steps // rollouts.epochs  # of one device
    rounds = -(-replies // rollouts.max_running) * rollouts.max_new_tokens
    weights = sum(weight.size for weight in run.network.weights) * run.precision.weight
    return rounds * weights / (BANDWIDTH_SHARE * bandwidth)


def _scaling(run: Run, budget_flops: float | None) -> Scaling | None:
    if budget_flops is None and run.recipe != "Pretrain":
        return None
    parameters, tokens = run.network.num_parameters, run.tokens
    own = 6.0 * parameters * tokens
    flops = own if budget_flops is None else budget_flops
    return Scaling(flops, budget_flops is None, tuple(chinchilla.optima(flops)), tokens / parameters, _excess(parameters, tokens))


def _excess(parameters: float, tokens: float) -> dict[str, float]:
    flops = 6.0 * parameters * tokens
    found: dict[str, float] = {}
    for name, loss in {"approach 3": chinchilla.APPROACH_3, "its refit": chinchilla.REFIT}.items():
        best = loss.optimal_parameters(flops)
        found[name] = loss(parameters, tokens) - loss(best, flops / (6 * best))
    return found


def total_parameters(parts: Sequence[PartCount]) -> tuple[int, int]:
    """All, and those that learn."""
    return sum(part.parameters for part in parts), sum(part.trained for part in parts)
