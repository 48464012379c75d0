"""Results as a table and as JSON."""

from __future__ import annotations

import json
import math

from framework.tasks.base import Result
from framework.tasks.estimates import Estimate, mean, proportion
from framework.tasks.report import as_json, remarks, table

RESULT = Result(
    task="sums",
    n=1200,
    metrics={"accuracy": proportion(300, 1200), "score": mean([1.0])},
    settings={"stop": ("a", "b"), "reward": {"class": "X", "object": math}},
    counts={"refused": 2, "unjudged": 0, "cut_off": 3},
    problems=["row:1: why"],
    samples=[{"nats": [1.0, math.inf]}],
    seconds=1.5,
)
PERPLEXITY = Result("texts", 1, {"perplexity": Estimate(math.inf, None, None, 1, "normal")}, {})


def test_the_table() -> None:
    assert table([RESULT, PERPLEXITY]).splitlines() == [
        "task   metric       value  95% low  95% high      n",
        "sums   accuracy    0.2500   0.2263    0.2753  1,200",
        "       score       1.0000        -         -      1",
        "texts  perplexity     inf        -         -      1",
    ]


def test_what_went_wrong_is_said() -> None:
    assert remarks(RESULT) == [
        "sums: 2 of 1,200 could not be asked, and count as wrong",
        "sums: 3 of 1,200 have an answer that was cut off at max_new_tokens",
        "sums: row:1: why",
    ]
    assert remarks(PERPLEXITY) == []


def test_json_holds_everything() -> None:
    found = json.loads(json.dumps(as_json(RESULT), allow_nan=False))
    assert found["metrics"]["accuracy"] == {
        "value": 0.25,
        "low": proportion(300, 1200).low,
        "high": proportion(300, 1200).high,
        "n": 1200,
        "interval": "Wilson",
    }
    assert found["metrics"]["score"]["low"] is None and found["samples"] == [{"nats": [1.0, "inf"]}]
    assert (found["task"], found["n"], found["counts"], found["seconds"]) == ("sums", 1200, dict(RESULT.counts), 1.5)
    assert found["settings"]["stop"] == ["a", "b"] and found["settings"]["reward"]["class"] == "X"
    assert as_json(PERPLEXITY)["metrics"]["perplexity"]["value"] == "inf"
