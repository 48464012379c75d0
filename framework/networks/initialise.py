"""Every initial weight of a Transformer, in one table.

| parameters                                    | values                       | source                                             |
| embeddings, positions, output head            | normal, 0.02                 | GPT-2, as Hugging Face and nanoGPT have it         |
| matrices                                      | normal, 0.02                 | GPT-2                                              |
| matrices that write to the residual stream    | normal, 0.02 / sqrt(2 L)     | GPT-2 (Radford et al. 2019, 2.3): L blocks add two |
| norm weights                                  | 1; 0 where 1 is added        |                                                    |
| biases, rows that pad the vocabulary          | 0                            |                                                    |
"""

from __future__ import annotations

import torch
from torch import nn

from framework.networks.shape import NetworkShape

STANDARD_DEVIATION = 0.02
RESIDUAL = ("attention.out.weight", "feedforward.down.weight")


@torch.no_grad()
def initialise(network: nn.Module, shape: NetworkShape, vocab_size: int) -> None:
    """Give every parameter its first value, drawn from torch's global generator; padding rows draw nothing."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif "norm" in name:
            nn.init.constant_(parameter, 0.0 if shape.norm == "rms_plus_one" else 1.0)
        elif name in ("embedding.weight", "head.weight"):
            nn.init.normal_(parameter[:vocab_size], std=STANDARD_DEVIATION)
            nn.init.zeros_(parameter[vocab_size:])
        else:
            residual = name.endswith(RESIDUAL)
            nn.init.normal_(parameter, std=STANDARD_DEVIATION / (2 * shape.num_layers) ** 0.5 if residual else STANDARD_DEVIATION)
