"""Which directory a path means, and a model with an adapter from another one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from framework import checkpoint
from framework.chat import ChatTemplate
from framework.errors import CheckpointError
from framework.formats.peft import save_beside
from framework.generation import Generator
from framework.generation.directory import adapter_directory
from framework.networks.lora import LoRA
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte

TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/base, and runs/lora that was trained on it."""
    place = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    checkpoint.save(place / "base" / "model", Transformer(NetworkShape(1, 32, 2), Byte().vocab_size, 64), Byte(), {})
    network = LoRA(lambda **sizes: checkpoint.load_network(place / "base" / "model"))
    with torch.no_grad():
        for adapter in network.adapters("default").values():
            adapter.B_OR.normal_()
    checkpoint.save(place / "lora" / "model", network, Byte(), {}, template=ChatTemplate(TEMPLATE))
    save_beside(place / "lora" / "model", network, {}, Byte(), ChatTemplate(TEMPLATE))
    return place


def test_an_adapter_is_found(runs: Path) -> None:
    assert adapter_directory(runs / "lora") == adapter_directory(runs / "lora" / "adapter") == runs / "lora" / "adapter"
    with pytest.raises(CheckpointError, match="base holds no adapter"):
        adapter_directory(runs / "base")
    with pytest.raises(CheckpointError, match=r"no directory .*lira; did you mean .*lora\?"):
        adapter_directory(runs / "lira")
    with pytest.raises(CheckpointError, match="give a run or an adapter"):
        adapter_directory(runs / "x")


@pytest.mark.parametrize("options", [{}, {"quantize": "int8"}, {"dtype": "bfloat16"}, {"draft": True}])
def test_base_and_adapter_write_what_the_merged_model_writes(runs: Path, options: dict[str, object]) -> None:
    options = options | ({"draft": runs / "base"} if "draft" in options else {})
    alone, together, merged = (
        Generator.load(runs / name, adapter=adapter, **options)  # type: ignore[arg-type]
        for name, adapter in (("base", None), ("base", runs / "lora"), ("lora", None))
    )
    texts = [
        generator.generate("abc", temperature=0.8, seed=3, max_new_tokens=20, ignore_eos=True) for generator in (alone, together, merged)
    ]
    assert texts[1] == texts[2] != texts[0]


def test_the_adapter_s_chat_template_comes_with_it(runs: Path) -> None:
    assert Generator.load(runs / "base").template is None
    template = Generator.load(runs / "base", adapter=runs / "lora").template
    assert template is not None and template.source == TEMPLATE


def test_an_adapter_of_another_model_is_refused(runs: Path) -> None:
    with pytest.raises(CheckpointError, match="trained on another base"):
        Generator.load(runs / "lora", adapter=runs / "lora")
