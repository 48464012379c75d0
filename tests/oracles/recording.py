"""What the scripts that make the oracles share: random inputs with few decimals, and JSON files that name the versions they came from.

Tensors flow in, `<name>.json` beside this file flows out. Runs in the peers' Pythons; must not know this project.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
PACKAGES = ("torch", "transformers", "trl")
DIGITS = 12  # significant ones kept of a result; inputs have few enough to be kept whole


class Draw:
    """Seeded random tensors in float64, rounded so that JSON holds them exactly."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal numbers, four decimals."""
        return (torch.randn(shape, generator=self._generator, dtype=torch.float64) * scale).mul(1e4).round() / 1e4

    def ids(self, vocab_size: int, *shape: int, low: int = 0) -> Tensor:
        """Whole numbers from low up to the vocabulary's size."""
        return torch.randint(low, vocab_size, shape, generator=self._generator)


def write(name: str, cases: dict[str, Any]) -> None:
    """Keep the cases, and what made them, in NAME.json: one line a case."""
    made_by = {package: importlib.metadata.version(package) for package in PACKAGES}
    lines = [f" {json.dumps(case)}: {json.dumps(plain(content))}" for case, content in {"made_by": made_by, **cases}.items()]
    file = HERE / f"{name}.json"
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{file.name}: {file.stat().st_size:,} bytes")


def plain(value: Any) -> Any:
    """Tensors as nested lists, numbers with DIGITS significant digits."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
