"""Contenders that open a model: a step is from the directory to the logits of one token, the model before having been dropped."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

TOKEN = [[1]]


def ours(rounds: Any, directory: str) -> None:
    """`load_network`, with verification where the directory has hashes."""
    import torch

    from framework.checkpoint import load_network

    with torch.inference_mode():
        while True:
            rounds()
            begun = time.perf_counter()
            network = load_network(Path(directory))
            rounds.note(columns={"of it, the call that loads": f"{(time.perf_counter() - begun) * 1e3:.0f} ms"})
            network.logits(network(torch.tensor(TOKEN)))
            del network


def transformers(rounds: Any, directory: str) -> None:
    """`from_pretrained`, which maps the file: weights are read when the first forward looks at them."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        while True:
            rounds()
            begun = time.perf_counter()
            model = AutoModelForCausalLM.from_pretrained(directory)
            rounds.note(columns={"of it, the call that loads": f"{(time.perf_counter() - begun) * 1e3:.0f} ms"})
            model(torch.tensor(TOKEN))
            del model
