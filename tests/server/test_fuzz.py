"""Bodies made from the OpenAPI document, right and wrong ones: every answer is one that the document promises, and none is a 500."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis")

KEY = "key"


@pytest.fixture(scope="module")
def locked(serving: Callable[..., Any]) -> Iterator[Any]:
    with serving(api_key=KEY) as running:
        yield running
        running.wait_until_idle()
        assert running.worker.failure is None and running.worker.generator.engine.num_active == 0


@pytest.fixture(scope="module")
def document(locked: Any) -> Any:
    return schemathesis.openapi.from_url(f"{locked.url}/openapi.json", headers={"Authorization": f"Bearer {KEY}"})


OPERATIONS = [
    *(("POST", path) for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")),
    *(("GET", path) for path in ("/v1/models", "/v1/models/{name}", "/health", "/health/live", "/metrics", "/")),
]


def test_no_operation_is_left_out(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == set(OPERATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_one_that_was_promised(document: Any, mode: str, method: str, path: str) -> None:
    """Left out is one check: a body may be right by its schema and wrong for this model (ids of its vocabulary, tokens of its context)."""
    operation = document[path][method]
    if mode == "NEGATIVE" and not (operation.body or operation.path_parameters):
        pytest.skip("nothing can be wrong with it")

    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def ask(case: Any) -> None:
        case.call_and_validate(
            headers={"Authorization": f"Bearer {KEY}"}, timeout=30, excluded_checks=[schemathesis.checks.positive_data_acceptance]
        )

    ask()
