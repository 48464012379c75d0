"""Engines of ours and of the peers, one function each: called with `rounds`, they generate until the process is ended.

All generate greedily, with nothing that ends a reply but its length, from random ids that differ in every round. Each function
imports its own library, because each runs in a process of its own. What a peer is, is said beside it.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from generate_rounds import Prompts, Stamp, decode_rounds

MB = 1e6


def perplexity(directory: str, nats: Callable[[list[int]], float]) -> dict[str, str]:
    """The column, when there is a text: `nats` is the negative log-likelihood of a window after its first token."""
    text = Path(directory) / "text.json"
    if not text.is_file():
        return {}
    windows = json.loads(text.read_text(encoding="utf-8"))
    return {"perplexity": f"{math.exp(sum(map(nats, windows)) / sum(len(window) - 1 for window in windows)):.3f}"}


def nats_of_logits(logits_TV: Any, window: list[int]) -> float:
    """From a torch network's logits of a window."""
    import torch
    from torch.nn import functional as F

    return F.cross_entropy(logits_TV[:-1].float(), torch.tensor(window[1:]), reduction="sum").item()


def our_network(directory: str, precision: str, device: str = "cpu") -> Any:
    """The model in fp32, bf16, or weight-only int8 or int4."""
    import torch

    from framework.checkpoint import load_network

    network = load_network(Path(directory) / "model").eval()
    if precision in ("int8", "int4"):
        from framework.networks.quantized import quantize

        network = quantize(network, precision)
    return network.to(device=device, dtype=torch.bfloat16 if precision == "bf16" else None)


def weights_mb(tensors: Iterable[Any]) -> dict[str, str]:
    """The column: what a decoding step reads, tied tensors once."""
    return {"weights MB": f"{sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values()) / MB:.0f}"}


def our_engine(network: Any, **settings: Any) -> Callable[[Prompts, list[int]], list[Stamp]]:
    """A function that gives prompts and the lengths of their replies to an engine, all at once."""
    from framework.engine.engine import Engine
    from framework.engine.request import Request
    from framework.samplers.chain import SamplingOptions

    greedy = SamplingOptions(temperature=0.0).chain()
    engine = Engine(network, **settings)

    def generate(prompts: Prompts, lengths: list[int]) -> list[Stamp]:
        numbers = {
            engine.add(Request(prompt, length, samplers=greedy)): number
            for number, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
        }
        stamps = []
        while engine.num_active:
            events = engine.step()
            if failed := [event.error for event in events if event.error]:
                raise failed[0]
            stamps.append((time.perf_counter(), [numbers[event.request_id] for event in events]))
        return stamps

    return generate


def ours(
    rounds: Any, name: str, task: dict[str, int], directory: str, precision: str = "fp32", text: bool = False, device: str = "cpu"
) -> None:
    """Our engine, requests added together; on a GPU compiled, with CUDA graphs."""
    import torch

    network = our_network(directory, precision, device)
    columns = weights_mb([*network.parameters(), *network.buffers()])
    if text:
        with torch.inference_mode():
            columns |= perplexity(directory, lambda window: nats_of_logits(network.logits(network(torch.tensor([window]))[0]), window))
    if device == "cuda":
        rounds.on_gpu()
    generate = our_engine(network, max_running=task["batch_size"], compile=device == "cuda")
    decode_rounds(rounds, name, task, lambda prompts, length: generate(prompts, [length] * len(prompts)), torch.set_num_threads, columns)


def transformers_model(directory: str, precision: str) -> Any:
    """LlamaForCausalLM as it comes: SDPA attention, dynamic cache."""
    import torch
    from transformers import LlamaForCausalLM

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return LlamaForCausalLM.from_pretrained(Path(directory) / "model", dtype=dtype).eval()


def transformers_generate(model: Any, prompts: Prompts, length: int) -> list[Stamp]:
    """`generate`, greedy; shorter prompts padded on the left."""
    import torch
    from transformers import GenerationConfig
    from transformers.generation.streamers import BaseStreamer

    class Clock(BaseStreamer):
        """Called with the prompts first, then with each step's tokens."""

        def __init__(self) -> None:
            self.moments: list[float] = []

        def put(self, value: Any) -> None:
            self.moments.append(time.perf_counter())

        def end(self) -> None:
            pass

    clock = Clock()
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    seen = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    config = GenerationConfig(max_new_tokens=length, do_sample=False, eos_token_id=None, bos_token_id=None, pad_token_id=0)
    with torch.inference_mode():
        model.generate(ids, attention_mask=seen, generation_config=config, streamer=clock)
    return [(moment, range(len(prompts))) for moment in clock.moments[1:]]


def transformers(rounds: Any, name: str, task: dict[str, int], directory: str, precision: str = "fp32", text: bool = False) -> None:
    """transformers' `generate`."""
    import torch

    model = transformers_model(directory, precision)
    columns = weights_mb(model.parameters())
    if text:
        with torch.inference_mode():
            columns |= perplexity(directory, lambda window: nats_of_logits(model(torch.tensor([window])).logits[0], window))
    decode_rounds(rounds, name, task, lambda prompts, length: transformers_generate(model, prompts, length), torch.set_num_threads, columns)


def litgpt(rounds: Any, name: str, task: dict[str, int]) -> None:
    """litgpt's `generate_fn` and `batched_generate_fn` on its SmolLM2-135M with random weights and a cache of just the length needed."""
    import torch
    from litgpt.config import Config
    from litgpt.generate.base import batched_generate_fn, generate_fn
    from litgpt.model import GPT

    model = GPT(Config.from_name("SmolLM2-135M")).eval()
    model.lm_head.weight = model.transformer.wte.weight  # tied, as everybody's
    model.max_seq_length = task["prompt_length"] + task["reply_length"]
    model.set_kv_cache(batch_size=task["batch_size"])

    def decode(prompts: Prompts, length: int) -> list[Stamp]:
        ids, total = torch.tensor(prompts), len(prompts[0]) + length
        if len(prompts) == 1:
            tokens = generate_fn(model, ids[0], total, temperature=0.0, include_prompt=False, include_eos=True)
        else:
            tokens = batched_generate_fn(model, ids, total, sample_args={"temperature": 0.0}, include_prompt=False, include_eos=True)
        return [(time.perf_counter(), range(len(prompts))) for _ in tokens]

    decode_rounds(rounds, name, task, decode, torch.set_num_threads, weights_mb(model.parameters()))


def queue(rounds: Any, serve: Callable[[Prompts, list[int]], None], name: str, requests: list[tuple[int, int]], vocab_size: int) -> None:
    """Serve all requests, (prompt length, reply length), queued at once; only the tokens that were asked for count."""
    number = 0
    while True:
        rounds()
        served = requests if number else requests[:8]  # the first round is the warm-up
        chance = random.Random(number)
        prompts = [chance.choices(range(vocab_size), k=prompt) for prompt, _ in served]
        lengths = [reply for _, reply in served]
        begin = time.perf_counter()
        serve(prompts, lengths)
        rounds.note(rates={name: sum(lengths) / (time.perf_counter() - begin)})
        number += 1


def our_queue(
    rounds: Any,
    name: str,
    requests: list[tuple[int, int]],
    vocab_size: int,
    threads: int,
    directory: str,
    precision: str = "fp32",
    max_running: int = 32,
    device: str = "cpu",
) -> None:
    """Our engine, all requests added at once."""
    import torch

    torch.set_num_threads(threads)
    if device == "cuda":
        rounds.on_gpu()
    generate = our_engine(our_network(directory, precision, device), max_running=max_running)

    def serve(prompts: Prompts, lengths: list[int]) -> None:
        count = sum(len(numbers) for _, numbers in generate(prompts, lengths))
        assert count == sum(lengths), f"{count} tokens came, {sum(lengths)} were asked for"

    queue(rounds, serve, name, requests, vocab_size)


def transformers_queue(
    rounds: Any, name: str, requests: list[tuple[int, int]], vocab_size: int, threads: int, directory: str, batch_size: int
) -> None:
    """transformers' `generate` on static batches in the order of the queue, each as long as its longest reply."""
    import torch

    torch.set_num_threads(threads)
    model = transformers_model(directory, "fp32")

    def serve(prompts: Prompts, lengths: list[int]) -> None:
        for start in range(0, len(prompts), batch_size):
            end = start + batch_size
            transformers_generate(model, prompts[start:end], max(lengths[start:end]))

    queue(rounds, serve, name, requests, vocab_size)


def machine(rounds: Any, threads: int, device: str = "cpu", seconds: float = 0.3) -> None:
    """No contender but the machine: bytes read and operations done a second, by the best of a few ways each.

    A rate is held over `seconds`, as a contender's is over its reply: on a machine whose memory others use too, the fastest of twenty
    calls is a tenth above that. It is noted beside it for the memory.
    """
    import torch

    from framework.kernels import calls, pages

    torch.set_num_threads(threads)
    on_gpu = device == "cuda"
    numbers = torch.ones((4096 if on_gpu else 512) * 2**18, device=device)  # 512 MB, on a GPU 4 GB: larger than any cache
    pages.gather([numbers]).join()  # read faster than from small pages, and so is what our engine reads
    table, vector = numbers.view(-1, 1024), torch.ones(1024, device=device)
    output = torch.empty(len(table), device=device)
    streamed = not on_gpu and calls.available()
    kind = torch.bfloat16 if on_gpu else torch.float32
    left, right = torch.randn(1024, 1024, device=device).to(kind), torch.randn(1024, 1536, device=device).to(kind)
    left_8, right_8 = (torch.randint(-128, 127, size, dtype=torch.int8, device=device) for size in ((1024, 1024), (1024, 1536)))
    operations = 2 * 1024 * 1024 * 1536
    ways: dict[str, list[tuple[float, Callable[[], Any]]]] = {
        "memory read GB/s": [
            (numbers.nbytes / 1e9, numbers.sum),
            (numbers.nbytes / 1e9, numbers.amax),
            (numbers.nbytes / 1e9, lambda: torch.mv(table, vector, out=output)),
            *([(numbers.nbytes / 1e9, lambda: calls.linear(vector[None], table, None))] if streamed else []),
        ],
        f"{'bf16' if on_gpu else 'fp32'} products GFLOP/s": [(operations / 1e9, lambda: left @ right)],
        "int8 products GOP/s": [(operations / 1e9, lambda: torch._int_mm(left_8, right_8))],
    }

    def rates(amount: float, work: Callable[[], Any]) -> tuple[float, float]:
        """A second's: held, and of the fastest call."""
        moments = [time.perf_counter()]
        while moments[-1] - moments[0] < seconds:
            work()
            if on_gpu:
                torch.cuda.synchronize()
            moments.append(time.perf_counter())
        least = min(end - start for start, end in itertools.pairwise(moments))
        return amount * (len(moments) - 1) / (moments[-1] - moments[0]), amount / least

    while True:
        rounds()
        figures = {}
        for name, several in ways.items():
            held, fastest = zip(*(rates(*way) for way in several))
            figures[name] = max(held)
            if "memory" in name:
                figures[f"{name}, fastest call"] = max(fastest)
        rounds.note(figures=figures, rates={})
