"""The table at the end of lifecycle.sh: what each stage brought, from the files it left. Exits 1 if a stage did not bring what it should.

python recipes/lifecycle_table.py runs/lifecycle
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

STAGES = ("pretrain", "sft", "ppo", "dpo", "grpo")
MAX_KL = 20.0  # nats a reply, as PPO's own warning has it
WINDOW = 5  # rollouts at each end that are averaged


def right(run: Path) -> dict[str, Any]:
    """Share of the held-out sums that replies get right: value, low, high, n."""
    metrics: dict[str, Any] = json.loads((run / "evaluation.json").read_text())["results"][0]["metrics"]["accuracy"]
    return metrics


def column(run: Path, name: str) -> list[float]:
    """A figure of the run's log, in order."""
    lines = map(json.loads, (run / "logs" / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if isinstance(line.get(name), int | float)]


def ends(values: list[float]) -> tuple[float, float]:
    """Means of the first and of the last few."""
    first, last = values[:WINDOW], values[-WINDOW:]
    return sum(first) / len(first), sum(last) / len(last)


def main(runs: Path) -> int:
    """Print the table; the exit code."""
    found = {stage: right(runs / stage) for stage in STAGES}
    print(f"{'stage':<14} {'right':>7} {'95% interval':>16} {'n':>5}   {'reward':>16} {'KL, nats a reply':>17}")
    for stage, accuracy in found.items():
        row = f"{stage:<14} {accuracy['value']:>7.1%} {accuracy['low']:>7.1%} - {accuracy['high']:.1%} {accuracy['n']:>5}"
        if rewards := column(runs / stage, "rollout/score"):
            first, last = ends(rewards)
            kl = column(runs / stage, "rollout/kl")
            row += f"   {first:>6.2f} -> {last:>6.2f} {f'{ends(kl)[1]:.2f}' if kl else '-':>17}"
        print(row)
    pairs = column(runs / "reward-model", "val/accuracy")[-1]
    print(f"{'reward model':<14} {pairs:>7.1%} of held-out pairs in order")
    first, last = ends(column(runs / "ppo", "rollout/score"))
    expected = {
        "SFT gets more right than pretraining": found["sft"]["low"] > found["pretrain"]["high"],
        "PPO gets more right than SFT": found["ppo"]["low"] > found["sft"]["high"],
        "DPO gets more right than SFT": found["dpo"]["low"] > found["sft"]["high"],
        "GRPO gets more right than SFT": found["grpo"]["low"] > found["sft"]["high"],
        "the reward model orders at least 90% of held-out pairs": pairs >= 0.9,
        "PPO raises the reward": last > first,
        f"PPO's KL stays under {MAX_KL:g}": max(column(runs / "ppo", "rollout/kl")) < MAX_KL,
    }
    for what, holds in expected.items():
        print(f"{'yes' if holds else 'NO':>4}  {what}")
    return 0 if all(expected.values()) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) if len(sys.argv) == 2 else __doc__)
