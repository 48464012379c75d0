"""What is compared: the contenders, sizes and targets of each section, as the project's performance goals have them.

Options flow in, tables flow out. Needs nothing but the standard library and PyYAML: libraries live in the contenders' processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from harness import HERE, Contender, Table, Target, Worker, compete, say

SMALL = {"num_layers": 4, "width": 128, "num_heads": 4, "feedforward": "gelu"}  # nanoGPT's CPU setting
KEPT = ", memory kept"  # rows that keep what they free, as `framework fit` does by itself (framework/training/heap.py)
TOKENISED_MEGABYTES = (60, 240)  # two corpora for the memory of tokenizing


@dataclass(frozen=True)
class Options:
    """The command line's."""

    nanogpt: str | None
    litgpt_python: str | None
    trainer_python: str
    rounds: int | None
    threads: int
    quick: bool
    directory: str

    def choose(self, contenders: list[Contender | None]) -> list[Contender]:
        """Those whose peers are there, and with --quick only the most telling."""
        return [contender for contender in contenders if contender and (contender.quick or not self.quick)]

    def times(self, quick: int, full: int) -> int:
        """Rounds to run."""
        return self.rounds or (quick if self.quick else full)


def setting(shape: dict[str, Any], vocab_size: int, context_length: int, batch_size: int) -> dict[str, Any]:
    """What all contenders of a section train."""
    return {"shape": shape, "vocab_size": vocab_size, "context_length": context_length, "batch_size": batch_size}


def shipped(name: str) -> dict[str, Any]:
    """The shape in configs/network/NAME.yaml."""
    config = yaml.safe_load((HERE.parent / "configs" / "network" / f"{name}.yaml").read_text(encoding="utf-8"))
    shape: dict[str, Any] = config["init_args"]["shape"]
    return shape


class Field:
    """The contenders of one setting."""

    def __init__(self, options: Options, what: dict[str, Any]) -> None:
        self._options, self._setting = options, what

    def machine(self) -> Contender:
        return Contender("matrix products", "contenders:products", {"setting": self._setting})

    def fit(self, compiled: bool = False, keeps: bool = False, quick: bool = True) -> Contender:
        arguments = {"setting": self._setting, "compiled": compiled, "keeps": keeps, "directory": self._options.directory}
        return Contender(f"fit{', compiled' * compiled}{KEPT * keeps}", "fit_loop:fit", arguments, quick=quick)

    def raw(self, compiled: bool = False, quick: bool = True) -> Contender:
        return Contender(
            f"our raw loop{', compiled' * compiled}", "contenders:ours", {"setting": self._setting, "compiled": compiled}, quick=quick
        )

    def nanogpt(self, compiled: bool = False, fused: bool = True, quick: bool = True) -> Contender | None:
        if self._options.nanogpt is None:
            return None
        arguments = {"setting": self._setting, "checkout": str(Path(self._options.nanogpt).resolve()), "compiled": compiled, "fused": fused}
        name = f"nanoGPT{', default AdamW' * (not fused)}{', compiled' * compiled}"
        return Contender(name, "contenders:nanogpt", arguments, quick=quick)

    def transformers(self, compiled: bool = False, tuned: bool = False, keeps: bool = False, quick: bool = True) -> Contender:
        arguments = {"setting": self._setting, "compiled": compiled, "tuned": tuned, "keeps": keeps}
        name = f"transformers{', tuned' * tuned}{', compiled' * compiled}{KEPT * keeps}"
        return Contender(name, "contenders:transformers", arguments, quick=quick)

    def transformers_trainer(self) -> Contender:
        arguments = {"setting": self._setting, "directory": self._options.directory}
        return Contender("transformers Trainer", "contenders:transformers_trainer", arguments, self._options.trainer_python)

    def litgpt(self, compiled: bool = False, fabric: bool = False, quick: bool = True) -> Contender | None:
        if self._options.litgpt_python is None:
            return None
        arguments = {"setting": self._setting, "compiled": compiled, "fabric": fabric}
        name = f"litgpt{' + Fabric' * fabric}{', compiled' * compiled}"
        return Contender(name, "contenders:litgpt", arguments, self._options.litgpt_python, quick)


def train_10m(options: Options) -> Table:
    """10.7M parameters: the whole `framework fit` loop against raw loops."""
    field = Field(options, setting(shipped("10m"), 65, 256, 16))
    contenders = [
        field.fit(),
        field.raw(),
        field.nanogpt(),
        field.nanogpt(compiled=True),
        field.nanogpt(fused=False, quick=False),
        field.transformers(),
        field.transformers(tuned=True),
        field.litgpt(quick=False),
        field.fit(keeps=True, quick=False),
        field.fit(compiled=True, quick=False),
        field.raw(compiled=True, quick=False),
        field.transformers(compiled=True, quick=False),
        field.litgpt(compiled=True, quick=False),
        field.machine(),
    ]
    table = run(options, "10.7M parameters, context 256, batch 16", contenders, 4096, options.times(3, 7), 1 if options.quick else 2, 2)
    nanogpts = ("nanoGPT", "nanoGPT, default AdamW", "nanoGPT, compiled")
    table.targets = [
        Target("fit", ("our raw loop",), 0.98),
        Target("fit", nanogpts, 1.0),
        Target("fit", ("transformers",), 1.15),
        Target("fit", ("transformers, tuned",), 1.0),
        Target("fit, compiled", nanogpts, 1.0),
        Target("fit, compiled", ("transformers, compiled",), 1.0),
    ]
    return table


def train_small(options: Options) -> Table:
    """0.8M parameters: what the loop around the network costs."""
    field = Field(options, setting(SMALL, 65, 64, 12))
    contenders = [
        field.fit(),
        field.raw(),
        field.nanogpt(),
        field.nanogpt(fused=False, quick=False),
        field.transformers(quick=False),
        field.transformers_trainer(),
        field.litgpt(),
        field.litgpt(fabric=True),
        field.machine(),
    ]
    table = run(options, "0.8M parameters, context 64, batch 12", contenders, 768, options.times(5, 11), 40, 20)
    others = ("litgpt", "litgpt + Fabric", "transformers Trainer")
    table.targets = [Target("fit", ("our raw loop",), 0.96), *(Target("fit", (other,), 1.0) for other in others)]
    return table


def train_gpt2(options: Options) -> Table:
    """GPT-2 124M, batch 1: what a large vocabulary's logits cost."""
    field = Field(options, setting(shipped("gpt2-124m"), 50257, 512, 1))
    contenders = [
        field.fit(),
        field.raw(),
        field.transformers(),
        field.transformers(tuned=True),
        field.fit(keeps=True),
        field.transformers(tuned=True, keeps=True),
        field.raw(compiled=True, quick=False),
        field.transformers(compiled=True, quick=False),
        field.machine(),
    ]
    # four steps of warm-up: that long the allocator goes on taking memory back from the system at every step
    table = run(options, "GPT-2 124M, context 512, batch 1", contenders, 512, options.times(3, 5), 1 if options.quick else 2, 4)
    table.targets = [
        Target("fit", ("transformers",), 1.4),
        Target("our raw loop", ("transformers",), 1.4),
        Target("our raw loop", ("transformers, tuned",), 1.0),
        Target("fit", ("transformers", "transformers, tuned"), 1.0, memory=True),
        Target(f"fit{KEPT}", ("transformers",), 1.4),
        Target(f"fit{KEPT}", (f"transformers, tuned{KEPT}",), 1.0),
        Target("our raw loop, compiled", ("transformers, compiled",), 1.0),
    ]
    return table


def tokenise(options: Options) -> Table:
    """Text to ids over all cores, and the memory it takes."""
    megabytes = 8 if options.quick else 24
    arguments = {"directory": options.directory, "megabytes": megabytes}
    contenders: list[Contender | None] = [
        Contender("encode_batch", "tokenising:ours", arguments),
        Contender("tiktoken encode_ordinary_batch", "tokenising:tiktoken_batch", arguments),
    ]
    table = run(options, "Tokenizing, vocabulary 8,192", contenders, megabytes * 1e3, options.times(5, 11), 1, 1, "kB/s", threads=0)
    table.targets = [Target("encode_batch", ("tiktoken encode_ordinary_batch",), 0.9)]
    peaks = []
    for size in [size // 4 if options.quick else size for size in TOKENISED_MEGABYTES]:
        say(f"Tokenizing: memory at {size} MB")
        worker = Worker(Contender("shards", "tokenising:shards", {**arguments, "megabytes": size}), warm_up=1, steps=1, threads=0)
        peaks.append((size, worker.answer["peak_mib"], size / worker.answer["seconds"]))
        worker.stop()
    table.notes += [f"text to shards: {size} MB of text at {rate:.1f} MB/s, peak {peak:,.0f} MiB" for size, peak, rate in peaks]
    return table


def load(options: Options) -> Table:
    """Training batches from tokens on disk, all loaders in one process."""
    arguments = {"directory": options.directory, "batch_size": 16, "context_length": 256, "seconds": 0.5}
    contender: list[Contender | None] = [Contender("loaders", "loader:loaders", arguments)]
    table = run(options, "Loading, context 256, batch 16", contender, 0, options.times(5, 11), 1, 1)
    table.targets = [Target(row, ("nanoGPT's random windows",), 5.0) for row in ("PackedText", "PackedText, mask_documents")]
    return table


def train_gpu(options: Options) -> Table:
    """GPT-2 124M in bf16 with compile: utilisation of the GPU's datasheet peak. The one section that needs a GPU."""
    what = setting(shipped("gpt2-124m"), 50257, 1024, 32)
    trainer = {"accelerator": "gpu", "devices": 1, "precision": "bf16-mixed"}
    contenders: list[Contender | None] = [
        Contender("our raw loop", "contenders:ours", {"setting": what, "compiled": True, "device": "cuda"}),
        Contender("fit", "fit_loop:fit", {"setting": what, "compiled": True, "directory": options.directory, "trainer": trainer}),
    ]
    table = run(options, "GPT-2 124M on a GPU, bf16, compiled, context 1,024, batch 32", contenders, 32 * 1024, options.times(3, 7), 20, 20)
    table.targets = [Target("fit", ("our raw loop",), 0.98)]
    return table


def run(
    options: Options,
    title: str,
    contenders: list[Contender | None],
    units: float,
    rounds: int,
    steps: int,
    warm_up: int,
    unit: str = "tokens/s",
    threads: int | None = None,
) -> Table:
    """`compete` among those that can."""
    return compete(title, unit, options.choose(contenders), units, rounds, steps, warm_up, options.threads if threads is None else threads)


SECTIONS = {"10m": train_10m, "small": train_small, "gpt2": train_gpt2, "tokenising": tokenise, "loader": load, "gpu": train_gpu}
