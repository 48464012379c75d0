"""What a run ran on."""

from __future__ import annotations

import json

import torch

from framework.training.environment import environment


def test_it_is_plain_values_without_a_machines_name() -> None:
    found = environment(torch.device("cpu"), world_size=2)
    assert json.loads(json.dumps(found)) == found
    assert found["torch"] == torch.__version__ and found["device"] == "cpu" and found["processes"] == 2
    assert set(found) == {"python", "torch", "lightning", "platform", "device", "processes", "threads"}
