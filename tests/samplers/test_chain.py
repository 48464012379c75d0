"""The usual options: order of the default list, defaults of a model, and what overrides what."""

from __future__ import annotations

import pytest
import torch

from framework.errors import RequestError
from framework.samplers.base import History
from framework.samplers.chain import SamplingOptions


def test_default_order() -> None:
    names = [type(sampler).__name__ for sampler in SamplingOptions().samplers()]
    assert names == ["RepetitionPenalty", "Temperature", "TopK", "TopP", "MinP"]


def test_no_options_change_nothing() -> None:
    logits_BV = torch.randn(1, 9)
    result = logits_BV
    for sampler in SamplingOptions().samplers():
        result = sampler(result, History(torch.tensor([[1]]), torch.tensor([1])))
    assert result is logits_BV


def test_options_go_over_the_model_s_defaults() -> None:
    defaults = SamplingOptions.from_generation_config({"temperature": 0.6, "top_k": 40, "eos_token_id": 2, "do_sample": True})
    assert SamplingOptions(top_k=0, top_p=0.9).over(defaults) == SamplingOptions(temperature=0.6, top_k=0, top_p=0.9)


def test_zero_is_an_option_and_not_an_absent_one() -> None:
    defaults = SamplingOptions(temperature=0.6, top_k=40, min_p=0.1)
    assert SamplingOptions(temperature=0.0, top_k=0, min_p=0.0).over(defaults) == SamplingOptions(temperature=0.0, top_k=0, min_p=0.0)


@pytest.mark.parametrize(
    ("config", "temperature"), [({}, None), ({"do_sample": False}, 0.0), ({"do_sample": False, "temperature": 0.5}, 0.5)]
)
def test_do_sample(config: dict[str, object], temperature: float | None) -> None:
    assert SamplingOptions.from_generation_config(config).temperature == temperature


def test_values_outside_their_range_are_request_errors() -> None:
    with pytest.raises(RequestError, match=r"top_p is 1\.5"):
        SamplingOptions(top_p=1.5).samplers()
