"""Published rows: parameters, operations, petaflop/s-days and utilisation as their papers have them (tests/golden/planner.json)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from framework.networks.shape import NetworkShape
from framework.planner.blueprint import Blueprint
from framework.planner.estimate import petaflop_days

ROWS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "golden" / "planner.json").read_text(encoding="utf-8"))
NAMES = [row["name"] for row in ROWS]


def rounded(value: float, digits: int) -> float:
    """To so many significant digits, as a paper's table has it."""
    return float(f"{value:.{digits - 1}e}")


def blueprint(row: dict[str, Any]) -> Blueprint:
    return Blueprint(NetworkShape(**row["shape"]), row["vocab_size"], row["context_length"])


def with_key(key: str) -> list[dict[str, Any]]:
    return [row for row in ROWS if key in row]


@pytest.mark.parametrize("row", [row for row in ROWS if row["shape"]], ids=lambda row: row["name"])
def test_parameters(row: dict[str, Any]) -> None:
    found = blueprint(row).num_parameters
    if digits := row.get("parameter_digits"):  # as the paper rounds them
        assert rounded(found, digits) == pytest.approx(rounded(row["parameters"], digits), rel=0.5 * 10 ** (1 - digits))
    else:
        assert found == row["parameters"]


@pytest.mark.parametrize("row", with_key("tokens"), ids=lambda row: row["name"])
def test_operations(row: dict[str, Any]) -> None:
    """6 N D, as these papers count: their N, or our own of their shape."""
    counts = [row.get("counted", row["parameters"])] + ([blueprint(row).num_parameters] if row["shape"] else [])
    for count in counts:
        flops = 6 * count * row["tokens"]
        if "flops" in row:
            assert rounded(flops, row["digits"]) == pytest.approx(row["flops"])
        if "petaflop_days" in row:
            assert rounded(petaflop_days(flops), row["digits"]) == row["petaflop_days"]


@pytest.mark.parametrize("row", with_key("mfu"), ids=lambda row: row["name"])
def test_utilisation(row: dict[str, Any]) -> None:
    per_token = blueprint(row).flops_per_token(row["context_length"])
    assert per_token == pytest.approx(row["flops_per_token"], rel=1e-4)
    assert rounded(row["tokens_per_second"] * per_token / row["peak_flops"], 4) == row["mfu"]


def test_the_rows_that_were_asked_for_are_there() -> None:
    assert len(ROWS) == 18 and {"GPT-3 175B", "LLaMA 65B", "Chinchilla 70B", "PaLM 540B"} <= set(NAMES)
    gpt2 = [row for row in ROWS if row["name"].startswith("GPT-2")]
    assert len(gpt2) == 4 and not any("tokens" in row for row in gpt2)  # they were never published


def test_a_day_at_a_petaflop() -> None:
    assert petaflop_days(1e15 * 24 * 60 * 60) == 1.0
    assert math.isclose(petaflop_days(3.1428e23), 3637.5)
