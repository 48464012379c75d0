"""Training loops of ours and of the peers, one function each: called with `rounds`, they train until the process is ended.

Everybody trains the same shape on ready-made random ids in memory, with AdamW and without dropout, clipping or logging. Each
function imports its own library, because each runs in a process of its own. What a peer is, is said beside it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

LEARNING_RATE = 1e-4
Loss = Callable[[Tensor, Tensor], Tensor]  # (ids_BT, targets_BT) -> the mean loss


def batches(setting: dict[str, Any], count: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Random (ids, targets), made before anything is timed."""
    generator = torch.Generator().manual_seed(0)
    size = (count, setting["batch_size"], setting["context_length"] + 1)
    ids = torch.randint(setting["vocab_size"], size, generator=generator)
    return [(rows[:, :-1].contiguous(), rows[:, 1:].contiguous()) for rows in ids]


def train(rounds: Callable[[], None], loss: Loss, optimizer: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]]) -> None:
    """The raw loop."""
    while True:
        for ids_BT, targets_BT in data:
            rounds()
            loss(ids_BT, targets_BT).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def adamw(parameters: Iterable[Any], fused: bool = True) -> torch.optim.Optimizer:
    """torch's AdamW; `fused` false is torch's default (for each tensor, several passes over memory)."""
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=fused or None)


def ours(rounds: Any, setting: dict[str, Any], compiled: bool = False, device: str = "cpu") -> None:
    """Our network, chunked loss, parameter groups and AdamW in a raw loop; on a GPU in bf16, beside its datasheet's peak."""
    from framework.losses import next_token
    from framework.networks.shape import NetworkShape
    from framework.networks.transformer import Transformer
    from framework.optimizers.adamw import AdamW
    from framework.optimizers.groups import parameter_groups

    network = Transformer(NetworkShape(**setting["shape"]), setting["vocab_size"], setting["context_length"], compile=compiled).to(device)
    optimizer = AdamW(parameter_groups(network.named_parameters(), network.roles()), lr=LEARNING_RATE)
    rounds.note(parameters=network.num_parameters(), flops=network.flops_per_token(setting["context_length"]))

    if device == "cuda":
        from framework.training.peak import peak_flops

        rounds.on_gpu()
        rounds.note(gemm={"the datasheet's bf16": peak_flops(torch.device(device))})

    def loss(ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return next_token(network(ids_BT), network.head_weight_VD, targets_BT) / targets_BT.numel()

    train(rounds, loss, optimizer, [(ids_BT.to(device), targets_BT.to(device)) for ids_BT, targets_BT in batches(setting)])


def nanogpt(rounds: Any, setting: dict[str, Any], checkout: str, compiled: bool = False, fused: bool = True) -> None:
    """nanoGPT's model in a raw loop."""
    sys.path.insert(0, checkout)
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    shape = setting["shape"]
    network = GPT(
        GPTConfig(
            block_size=setting["context_length"],
            vocab_size=setting["vocab_size"],
            n_layer=shape["num_layers"],
            n_head=shape["num_heads"],
            n_embd=shape["width"],
            bias=shape.get("norm_bias", False),
        )
    )
    optimizer = adamw(network.parameters(), fused)
    rounds.note(parameters=count(network))
    forward = torch.compile(network) if compiled else network
    train(rounds, lambda ids_BT, targets_BT: forward(ids_BT, targets_BT)[1], optimizer, batches(setting))


def count(network: torch.nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in network.parameters())


def gpt2(setting: dict[str, Any], tuned: bool) -> Any:
    """transformers' GPT2LMHeadModel of the setting's shape: as its configuration is but for dropout, or `tuned`.

    Tuned is torch's GELU kernel, where the default spells GELU out in seven operations, and no key-value cache made while training.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = setting["shape"]
    kernel = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}[shape["feedforward"]]
    tuning = {"activation_function": kernel, "use_cache": False} if tuned else {}
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=setting["vocab_size"],
            n_positions=setting["context_length"],
            n_layer=shape["num_layers"],
            n_head=shape["num_heads"],
            n_embd=shape["width"],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
            **tuning,
        )
    )


def transformers(rounds: Any, setting: dict[str, Any], compiled: bool = False, tuned: bool = False, keeps: bool = False) -> None:
    """transformers' GPT2LMHeadModel in a raw loop, with its own loss over full logits, SDPA attention and fused AdamW.

    `keeps` gives its process the allocator's settings that `framework fit` has outside of benchmarks.
    """
    if keeps:
        from framework.training import heap

        del os.environ["FRAMEWORK_KEEP_MEMORY"]
        assert heap.keep_freed()
    network = gpt2(setting, tuned).train()
    optimizer = adamw(network.parameters())
    rounds.note(parameters=count(network))
    forward = torch.compile(network) if compiled else network
    train(rounds, lambda ids_BT, _: forward(input_ids=ids_BT, labels=ids_BT).loss, optimizer, batches(setting))


def transformers_trainer(rounds: Any, setting: dict[str, Any], directory: str) -> None:
    """transformers' Trainer over the same model, fused AdamW, logging every 20 steps, no clipping, nothing saved."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Tell(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **keywords: Any) -> None:
            rounds()

    data = [{"input_ids": row, "labels": row} for ids_BT, _ in batches(setting, count=512) for row in ids_BT]
    arguments = TrainingArguments(
        output_dir=directory,
        per_device_train_batch_size=setting["batch_size"],
        max_steps=10**7,
        learning_rate=LEARNING_RATE,
        optim="adamw_torch_fused",
        max_grad_norm=0.0,
        logging_steps=20,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    Trainer(model=gpt2(setting, tuned=False), args=arguments, train_dataset=data, callbacks=[Tell()]).train()


def litgpt(rounds: Any, setting: dict[str, Any], compiled: bool = False, fabric: bool = False) -> None:
    """litgpt's GPT (rotary positions: it has no learned ones) and its chunked loss, in a raw loop or under Lightning's Fabric."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    shape = setting["shape"]
    network: Any = GPT(
        Config(
            block_size=setting["context_length"],
            vocab_size=setting["vocab_size"],
            padded_vocab_size=setting["vocab_size"],
            n_layer=shape["num_layers"],
            n_head=shape["num_heads"],
            n_embd=shape["width"],
            intermediate_size=4 * shape["width"],
            bias=shape.get("norm_bias", False),
            parallel_residual=False,
            norm_class_name="LayerNorm",
            mlp_class_name="GptNeoxMLP",
        )
    )
    optimizer: Any = adamw(network.parameters())
    rounds.note(parameters=count(network))
    data = batches(setting)
    if not fabric:
        forward = torch.compile(network) if compiled else network
        train(rounds, lambda ids_BT, targets_BT: chunked_cross_entropy(forward(ids_BT), targets_BT), optimizer, data)
    from lightning import Fabric

    runner = Fabric(accelerator="cpu", devices=1)
    runner.launch()
    network, optimizer = runner.setup(network, optimizer)
    while True:
        for ids_BT, targets_BT in data:
            rounds()
            runner.backward(chunked_cross_entropy(network(ids_BT), targets_BT))
            optimizer.step()
            optimizer.zero_grad()


def products(rounds: Any, setting: dict[str, Any], seconds: float = 0.15) -> None:
    """No contender but the machine: fp32 matrix products of the network's shapes, FLOP/s by shape."""
    import time

    shape = setting["shape"]
    rows, width, vocab_size = setting["batch_size"] * setting["context_length"], shape["width"], setting["vocab_size"]
    shapes = {
        "qkv": (width, 3 * width),
        "out": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
        "head": (width, vocab_size),
    }
    operands = {
        f"{name} {rows} x {inner} x {columns}": (torch.randn(rows, inner), torch.randn(inner, columns))
        for name, (inner, columns) in shapes.items()
    }
    while True:
        rounds()
        rates = {}
        for name, (left, right) in operands.items():
            output = left @ right
            count, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < seconds:
                torch.mm(left, right, out=output)
                count += 1
            rates[name] = 2 * left.shape[0] * left.shape[1] * right.shape[1] * count / spent
        rounds.note(gemm=rates, rates={})
