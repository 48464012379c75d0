"""The usual options: order of the default list, defaults of a model, and what overrides what."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import pytest
import torch

from framework.errors import CheckpointError, RequestError
from framework.samplers.base import History
from framework.samplers.chain import ORDER, SamplingOptions


def test_default_order() -> None:
    names = [type(sampler).__name__ for sampler in SamplingOptions().chain()]
    penalties = ["LogitBias", "RepetitionPenalty", "FrequencyPenalty", "PresencePenalty", "NoRepeatNgram"]
    assert names == [*penalties, "Temperature", "TopK", "TopP", "MinP", "TypicalP"]
    assert {name for name, *_ in ORDER} == {field.name for field in fields(SamplingOptions)}


def test_no_options_change_nothing() -> None:
    logits_BV = torch.randn(1, 9)
    result = logits_BV
    for sampler in SamplingOptions().chain():
        assert sampler.changes_nothing
        result = sampler(result, History(torch.tensor([[1]]), torch.tensor([1])))
    assert result is logits_BV


def test_every_option_reaches_its_sampler() -> None:
    given = SamplingOptions(0.5, 3, 0.9, 0.1, 0.8, 1.2, 0.3, 0.4, 2, {1: 2.0})
    assert not any(sampler.changes_nothing for sampler in given.chain())
    alone = [SamplingOptions(**{field.name: getattr(given, field.name)}).chain() for field in fields(given)]
    assert [sum(not sampler.changes_nothing for sampler in samplers) for samplers in alone] == [1] * 10


def test_options_go_over_the_model_s_defaults() -> None:
    defaults = SamplingOptions.from_generation_config({"temperature": 0.6, "top_k": 40, "eos_token_id": 2, "do_sample": True})
    assert SamplingOptions(top_k=0, top_p=0.9).over(defaults) == SamplingOptions(temperature=0.6, top_k=0, top_p=0.9)


def test_zero_is_an_option_and_not_an_absent_one() -> None:
    defaults = SamplingOptions(temperature=0.6, top_k=40, min_p=0.1, logit_bias={1: 1.0})
    none = SamplingOptions(temperature=0.0, top_k=0, min_p=0.0, logit_bias={})
    assert none.over(defaults) == none


def test_options_that_know_more_stay_what_they_are() -> None:
    @dataclass(frozen=True)
    class More(SamplingOptions):
        seed: int | None = None

    assert More(top_k=3, seed=5).over(SamplingOptions(top_k=1, top_p=0.5)) == More(top_k=3, top_p=0.5, seed=5)


def test_a_generation_config_s_names_are_transformers_() -> None:
    """Every option but the bias, which transformers has for sequences only, by the very names of its GenerationConfig."""
    transformers = pytest.importorskip("transformers")
    given = {
        "temperature": 0.6,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.1,
        "typical_p": 0.8,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
    }
    config = transformers.GenerationConfig(do_sample=True, **given).to_dict()
    assert SamplingOptions.from_generation_config(config) == SamplingOptions(**given)
    assert SamplingOptions.from_generation_config({**given, "logit_bias": "not theirs"}) == SamplingOptions(**given)


@pytest.mark.parametrize(
    ("config", "temperature"), [({}, None), ({"do_sample": False}, 0.0), ({"do_sample": False, "temperature": 0.5}, 0.5)]
)
def test_do_sample(config: dict[str, object], temperature: float | None) -> None:
    assert SamplingOptions.from_generation_config(config).temperature == temperature


@pytest.mark.parametrize("value", ["0.7", True, [1], {}])
def test_a_generation_config_with_something_else_than_a_number_is_named(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json has top_p: .* no number"):
        SamplingOptions.from_generation_config({"top_p": value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", (-0.1, math.nan, math.inf)),
        ("top_k", (-2,)),
        ("top_p", (0.0, -1.0, 1.5, math.nan)),
        ("min_p", (-0.1, 1.1, math.nan)),
        ("typical_p", (0.0, -1.0, 1.5, math.nan)),
        ("repetition_penalty", (0.0, -1.0, math.nan, math.inf)),
        ("frequency_penalty", (-2.1, 2.1, math.nan)),
        ("presence_penalty", (-2.1, 2.1, math.nan)),
        ("no_repeat_ngram_size", (-1,)),
        ("logit_bias", ({-1: 1.0}, {1: 100.1}, {1: -100.1}, {1: math.nan})),
    ],
)
def test_values_outside_their_range_are_request_errors_that_name_the_option(name: str, values: tuple[object, ...]) -> None:
    for value in values:
        with pytest.raises(RequestError, match=f"^{name} .* must "):
            SamplingOptions(**{name: value}).chain()  # type: ignore[arg-type]
