"""What generation is compared on: contenders, sizes and targets of each section, as the project's performance goals have them.

Options flow in, tables flow out. Needs nothing but the standard library: libraries live in the contenders' processes.
"""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from generate_rounds import PROMPT_INCLUDED
from harness import HERE, Contender, Table, Target, compete, say
from report import spread, word

VOCAB_SIZE, PARAMETERS = 49_152, 134_515_008  # SmolLM2-135M
READ, FP32, INT8 = "memory read GB/s", "fp32 products GFLOP/s", "int8 products GOP/s"
FASTEST_READ = f"{READ}, fastest call"
BF16 = "bf16 products GFLOP/s"
FP32_PEERS = ("transformers fp32", "litgpt fp32", "CTranslate2 fp32", "llama.cpp F32")
FULL_ONLY = ("transformers bf16", "CTranslate2 fp32", "llama.cpp F32")  # left out by --quick


@dataclass(frozen=True)
class Options:
    """The command line's, and the models that were made."""

    litgpt_python: str | None
    peers_python: str | None
    rounds: int | None
    threads: int
    quick: bool
    directory: str
    models: set[str] = field(default_factory=set)

    def times(self, quick: int, full: int) -> int:
        """Rounds to run."""
        return self.rounds or (quick if self.quick else full)


def prepare(options: Options) -> list[str]:
    """Make the model of all contenders in each one's form; what could not be made, and why."""
    notes = []
    kinds = ("weights", "ctranslate2", "Q8_0", "Q4_0", *([] if options.quick else ["F32"]))
    for kind in kinds if options.peers_python else ():
        say(f"model: {kind}")
        command = [str(options.peers_python), str(HERE / "generate_models.py"), kind, options.directory]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode == 0:
            options.models.add(kind)
        else:
            reason = made.stderr.strip().splitlines()[-1][:160]
            notes.append(f"{kind}: could not be made ({reason})")
        if kind == "weights" and kind not in options.models:
            random_weights(options.directory)
    if not options.peers_python:
        random_weights(options.directory)
    return notes


def random_weights(directory: str) -> None:
    """SmolLM2-135M's shape with random weights, by transformers."""
    program = f"""
from transformers import LlamaConfig, LlamaForCausalLM
LlamaForCausalLM(LlamaConfig(
    vocab_size={VOCAB_SIZE}, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
    max_position_embeddings=8192, rms_norm_eps=1e-5, rope_parameters={{"rope_type": "default", "rope_theta": 100000.0}},
    tie_word_embeddings=True,
)).save_pretrained({str(Path(directory) / "model")!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True, stdout=sys.stderr)


class Field:
    """The contenders of one task."""

    def __init__(self, options: Options, batch_size: int, text: bool = False) -> None:
        self._options = options
        self._task = {
            "batch_size": batch_size,
            "prompt_length": 32,
            "reply_length": 64,
            "vocab_size": VOCAB_SIZE,
            "threads": options.threads,
        }
        self._text = text

    def ours(self, precision: str) -> Contender:
        return self._contender(f"ours {precision}", "generate_contenders:ours", precision)

    def transformers(self, precision: str) -> Contender:
        return self._contender(f"transformers {precision}", "generate_contenders:transformers", precision)

    def litgpt(self) -> Contender | None:
        python = self._options.litgpt_python
        arguments = {"name": "litgpt fp32", "task": self._task}
        return Contender("litgpt fp32", "generate_contenders:litgpt", arguments, python) if python else None

    def ctranslate2(self, precision: str) -> Contender | None:
        return self._peer("ctranslate2", f"CTranslate2 {precision}", "generate_peers:ctranslate2", precision)

    def llama(self, precision: str) -> Contender | None:
        return self._peer(precision, f"llama.cpp {precision}", "generate_peers:llama", precision)

    def _peer(self, model: str, name: str, function: str, precision: str) -> Contender | None:
        contender = self._contender(name, function, precision)
        return replace(contender, python=self._options.peers_python or "") if model in self._options.models else None

    def _contender(self, name: str, function: str, precision: str) -> Contender:
        arguments = {"task": self._task, "directory": self._options.directory, "precision": precision, "text": self._text}
        return Contender(name, function, {"name": name, **arguments})


def machine(options: Options, device: str = "cpu") -> Contender:
    """The limits."""
    return Contender("limits", "generate_contenders:machine", {"threads": options.threads, "device": device})


def batch_1(options: Options) -> list[Table]:
    """One sequence: how near decoding is to reading the weights once a token."""
    there = Field(options, 1, text=True)
    contenders = [
        there.transformers("fp32"),
        there.ours("fp32"),
        machine(options),  # beside the row whose part of the limits counts
        there.ours("int8"),
        there.ours("int4"),
        there.transformers("bf16"),
        there.litgpt(),
        there.ctranslate2("fp32"),
        there.ctranslate2("int8"),
        there.llama("F32"),
        there.llama("Q8_0"),
        there.llama("Q4_0"),
    ]
    tables = decode(options, 1, contenders, options.times(3, 9))
    table = tables[0]
    table.targets = [
        Target("ours fp32", ("transformers fp32",), 1.35),
        Target("ours int8", ("transformers fp32",), 1.7),
        Target("ours int8", ("llama.cpp Q8_0",), 1.0),
        Target("ours int4", ("llama.cpp Q4_0",), 1.0),
    ]
    add_limit_target(table, "ours fp32", 0.75)
    return tables


def batch_of(batch_size: int, options: Options) -> list[Table]:
    """Several sequences that begin together: how near decoding is to the machine's products."""
    there = Field(options, batch_size)
    contenders = [
        there.transformers("fp32"),
        there.ours("fp32"),
        machine(options),
        there.ours("int8"),
        there.ours("int4"),
        there.litgpt(),
        there.ctranslate2("fp32"),
        there.ctranslate2("int8"),
        there.llama("F32"),
        there.llama("Q8_0"),
        there.llama("Q4_0"),
    ]
    tables = decode(options, batch_size, contenders, options.times(2, 5))
    for table in tables:
        table.targets = [Target("ours fp32", FP32_PEERS, 1.25), Target("ours int8", ("llama.cpp Q8_0",), 1.0)]
    if batch_size == 32 and "ours int8" in tables[0].rates:
        reached = tables[0].rates["ours int8"]
        tables[0].notes.append(f"aim, 600 tokens/s in int8: {word(median(reached) >= 600)}, {spread(reached, ',.0f')}")
    return tables


def decode(options: Options, batch_size: int, contenders: list[Contender | None], rounds: int) -> list[Table]:
    """Two tables of one run: decoding alone, and the whole of prompt and reply."""
    title = f"Batch {batch_size}, prompt 32, reply 64"
    taken = [contender for contender in contenders if contender and not (options.quick and contender.name in FULL_ONLY)]
    whole = compete(title, "tokens/s", taken, 0, rounds, 1, 1, threads=0)
    add_limits(whole, batch_size)
    rows = [row for row in whole.rates if not row.endswith(PROMPT_INCLUDED)]
    return [
        replace(whole, title=f"{title}: decoding alone", rates={row: whole.rates[row] for row in rows}),
        Table(f"{title}: prompt included", whole.unit, {row: whole.rates[row + PROMPT_INCLUDED] for row in rows}, whole.peak_mib),
    ]


def limit(table: Table, row: str, batch_size: int, products: str = FP32) -> float:
    """Tokens/s that the machine allows: weights read once a step, 2 operations a parameter and token, whichever takes longer."""
    read = float(table.columns["weights MB"][row]) / 1e3 / median(table.figures[READ])
    rate = median(table.figures[products])
    if any(part in row for part in ("int8", "int4", "Q8_0", "Q4_0")):
        rate = max(rate, median(table.figures[INT8]))  # a processor without products of bytes multiplies in fp32
    return batch_size / max(read, 2 * PARAMETERS * batch_size / 1e9 / rate)


def add_limits(table: Table, batch_size: int) -> None:
    """The column with each row's part of its limit, and the limits themselves below."""
    if READ not in table.figures:
        return
    rows = [row for row in table.columns.get("weights MB", {}) if row in table.rates]
    table.columns["of its limit"] = {row: f"{median(table.rates[row]) / limit(table, row, batch_size):.0%}" for row in rows}
    figures = ", ".join(f"{name} {spread(values, ',.0f')}" for name, values in table.figures.items())
    table.notes.append(f"machine limits: {figures}; a row's limit is its weights read once a step or its products, whichever takes longer")


def add_limit_target(table: Table, row: str, factor: float) -> None:
    """At least this part of the limit, round by round."""
    if row in table.rates and READ in table.figures:
        size = float(table.columns["weights MB"][row]) / 1e3
        held, fastest = (
            [rate * size / read for rate, read in zip(table.rates[row], table.figures[figure], strict=True)]
            for figure in (READ, FASTEST_READ)
        )
        table.notes.append(
            f"{word(median(held) >= factor)}: {row} reads its weights at {spread(held, '.0%')} of the memory's rate; "
            f"target at least {factor:.0%}; of the memory's fastest call {spread(fastest, '.0%')}"
        )


def serve_queue(options: Options) -> list[Table]:
    """Requests of mixed lengths, all there at the start: continuous batching against static batches."""
    chance = random.Random(0)
    count = 32 if options.quick else 64
    requests = [(chance.randint(16, 256), chance.randint(16, 128)) for _ in range(count)]
    shared = {"requests": requests, "vocab_size": VOCAB_SIZE, "threads": options.threads, "directory": options.directory}

    def ours(precision: str) -> Contender:
        name = f"ours {precision}"
        return Contender(name, "generate_contenders:our_queue", {"name": name, **shared, "precision": precision})

    def static(batch_size: int) -> Contender:
        name = f"transformers fp32, batches of {batch_size}"
        return Contender(name, "generate_contenders:transformers_queue", {"name": name, **shared, "batch_size": batch_size})

    sizes = (8, 16) if options.quick else (4, 8, 16, 32)
    contenders = [ours("fp32"), ours("int8"), *map(static, sizes)]
    title = f"{count} requests queued at the start, prompts 16-256, replies 16-128"
    table = compete(title, "useful tokens/s", contenders, 0, options.times(1, 3), 1, 1, threads=0)
    statics = tuple(static(size).name for size in sizes)
    table.targets = [Target("ours fp32", statics, 2.0)]
    if fastest := table.fastest(statics):
        met = "ours fp32" in table.rates and median(table.ratios("ours fp32", fastest)) >= 3
        table.notes.append(f"aim, 3 x {fastest}: {word(met)}")
    return [table]


def engine(options: Options) -> list[Table]:
    """What only our engine is asked."""
    base: dict[str, Any] = {"directory": options.directory, "threads": options.threads}
    rounds = options.times(3, 5)
    contenders = [
        Contender("first token", "generate_engine:first_token", {**base, "precision": "fp32", "running": 16, "prompt_lengths": [32, 256]}),
        Contender("prefix", "generate_engine:prefix", {**base, "precision": "fp32", "shared": 512, "own": 32}),
        Contender("outside fp32", "generate_engine:outside", {**base, "precision": "fp32", "running": 32, "steps": 12}),
        Contender("outside int8", "generate_engine:outside", {**base, "precision": "int8", "running": 32, "steps": 12}),
        Contender(
            "memory", "generate_engine:memory", {**base, "precision": "fp32", "requests": (150 if options.quick else 1000) // rounds}
        ),
    ]
    table = compete("Our engine: waiting, prefixes, sampling, memory", "", contenders, 0, rounds, 1, 1, threads=0)
    table.notes += [*waiting(table), *prefixes(table), *sampling(table), *growth(table)]
    return [table]


def waiting(table: Table) -> list[str]:
    if "step" not in table.figures:
        return []
    lines = [f"16 requests running, fp32: a step takes {spread(table.figures['step'], '.0f')} ms"]
    for length in (32, 256):
        first, longest = table.figures[f"first token {length}"], table.figures[f"longest step {length}"]
        lines.append(
            f"a new one with a prompt of {length} has its first token after {spread(first, '.0f')} ms; "
            f"the others wait at most {spread(longest, '.0f')} ms for theirs meanwhile"
        )
    return lines


def prefixes(table: Table) -> list[str]:
    if "first prefill" not in table.figures:
        return []
    first, second = table.figures["first prefill"], table.figures["second prefill"]
    ratios = [slow / fast for slow, fast in zip(first, second, strict=True)]
    return [
        f"{word(median(ratios) >= 5)}: a prompt that shares 512 tokens and has 32 of its own is prefilled {spread(ratios, '.1f')} x faster the "
        f"second time ({spread(first, '.0f')} ms, {spread(second, '.0f')} ms); target at least 5"
    ]


def sampling(table: Table) -> list[str]:
    lines = []
    for precision in ("fp32", "int8"):
        for name, most in {"greedy": 0.05, "temperature": 0.05, "top-k and top-p": 0.15}.items():
            parts = table.figures.get(f"outside {precision} {name}")
            if parts:
                spent = spread(table.figures[f"outside ms {precision} {name}"], ".1f")
                lines.append(
                    f"{word(median(parts) < most)}: of a batch-32 {precision} step with {name}, {spread(parts, '.1%')} ({spent} ms) is outside the network; "
                    f"target under {most:.0%}"
                )
    return lines


def growth(table: Table) -> list[str]:
    if "resident MB" not in table.figures:
        return []
    sizes = table.figures["resident MB"]
    grown = sizes[-1] / sizes[0] - 1
    steps = ", ".join(f"{size:,.0f}" for size in sizes)
    return [
        f"{word(grown < 0.01)}: memory, cache of 2,048 tokens included, after each of {len(sizes)} parts of the requests: {steps} MB; target under 1% of growth"
    ]


def on_gpu(options: Options) -> list[Table]:
    """bf16 on a GPU: one sequence against its memory, and 256 requests at once. The one section that needs a GPU."""
    task = {"prompt_length": 32, "reply_length": 256, "vocab_size": VOCAB_SIZE, "threads": 1}
    tables = []
    for batch_size in (1, 256):
        arguments = {"task": {**task, "batch_size": batch_size}, "directory": options.directory, "precision": "bf16", "device": "cuda"}
        contenders = [
            Contender("ours bf16", "generate_contenders:ours", {"name": "ours bf16", **arguments}),
            machine(options, "cuda"),
        ]
        title = f"On a GPU, batch {batch_size}, bf16, prompt 32, reply 256"
        table = compete(title, "tokens/s", contenders, 0, options.times(3, 7), 1, 1, threads=0)
        if READ in table.figures and "ours bf16" in table.rates:
            part_of = median(table.rates["ours bf16"]) / limit(table, "ours bf16", batch_size, BF16)
            table.columns["of its limit"] = {"ours bf16": f"{part_of:.0%}"}
        tables.append(table)
    return tables


SECTIONS = {
    "batch1": batch_1,
    "batch8": lambda options: batch_of(8, options),
    "batch32": lambda options: batch_of(32, options),
    "queue": serve_queue,
    "engine": engine,
    "gpu": on_gpu,
}
