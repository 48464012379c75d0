"""A real model of somebody else's against its own NumPy forward: logits, ids, generated text; and through every door of the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framework.checkpoint import load, load_network, save
from framework.errors import TokenizerError
from framework.formats.importing import import_model
from framework.generation import Generator
from framework.parity.publishing import Watch, adapter_only, to_gguf, to_hugging_face
from framework.tokenizers.byte import Byte

TEXT = "The king said to his daughter that the forest was dark, and the children were afraid of the wolf. "


def test_ids_are_its_own(glass: Any) -> None:
    _, tokenizer = load(glass.directory)
    for text in (TEXT, "  two  spaces\nand a line ", "naïve ﬁne ① 日本語!", "<bos> is text"):
        assert tokenizer.encode(text) == glass.tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.vocab_size == glass.tokenizer.vocab_size == 1024


def test_logits_are_its_own(glass: Any) -> None:
    """At all 128 positions: one alone sees no wrong rotation."""
    ids = (glass.tokenizer.encode(TEXT * 4))[:128]
    assert len(ids) == 128
    network = load_network(glass.directory)
    with torch.inference_mode():
        ours_TV = network.logits(network(torch.tensor([ids])))[0].numpy()
    theirs_TV = glass.model(np.array(ids)).data[0]
    assert np.abs(ours_TV - theirs_TV).max() < 1e-4 < theirs_TV.std()


def test_it_writes_what_it_writes_at_home(glass: Any) -> None:
    prompt = glass.tokenizer.encode("Once upon a time")
    expected = [step.token for step in glass.model.generate(prompt, 30, greedy=True)]
    generator = Generator.load(glass.directory)
    text = generator.generate(prompt, temperature=0, max_new_tokens=30, ignore_eos=True)
    assert text == generator.tokenizer.decode(expected) and len(text) > 40


def test_imported_it_is_the_same(glass: Any, tmp_path: Path) -> None:
    assert "LlamaForCausalLM" in import_model(glass.directory, tmp_path / "model")
    one, other = load_network(glass.directory), load_network(tmp_path / "model")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    lineage = json.loads((tmp_path / "model" / "framework.json").read_text())["lineage"]
    assert lineage["source"]["license"] == "mit" and lineage["source"]["kind"] == "huggingface"
    assert set(lineage["source"]["files"]) == {"model.safetensors"}
    assert Generator.load(tmp_path / "model").template is not None


def test_fine_tuned_and_published(glass: Any, tmp_path: Path, framework: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRA-SFT by the shipped recipe on the chat template that the model brings; the merged model and the adapter leave the house."""
    monkeypatch.chdir(tmp_path)
    size = ["--data.context_length", 64, "--data.batch_size", 2, "--data.dataset.size", 40, "--trainer.max_steps", 2]
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.val_check_interval", 2]
    made = framework("finetune", "--recipe", "lora-sft", "--init_from", glass.directory, *size, *quiet)
    assert made.code == 0, made.err
    assert f"note: data.chat_template comes from {glass.directory} instead of " in made.err
    run = tmp_path / "runs" / "lora-sft"
    assert "<bos>" in (run / "model" / "chat_template.jinja").read_text()
    assert not torch.equal(
        load_network(run / "model").state_dict()["blocks.0.attention.qkv.weight"],
        load_network(glass.directory).state_dict()["blocks.0.attention.qkv.weight"],
    )
    reports: list[Any] = []
    to_hugging_face(run, tmp_path / "out", "F16", watch=Watch(reported=reports.append))
    assert reports[0].passed, reports[0].table()
    adapter_only(run / "adapter", tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == "glass"


def test_as_gguf(glass: Any, tmp_path: Path) -> None:
    """GGUF has no place for a tokenizer that normalizes; the trained weights go through it with another one."""
    pytest.importorskip("gguf")
    with pytest.raises(TokenizerError, match="GGUF cannot express this tokenizer"):
        to_gguf(glass.directory, tmp_path / "glass.gguf")
    assert not list(tmp_path.iterdir())
    save(tmp_path / "bytes", load_network(glass.directory), Byte(), {})
    for kind in ("F32", "Q8_0"):
        reports: list[Any] = []
        to_gguf(tmp_path / "bytes", tmp_path / f"{kind}.gguf", kind, watch=Watch(reported=reports.append))  # type: ignore[arg-type]
        assert reports[0].passed, reports[0].table()
    texts = [
        Generator.load(place).generate([50, 60, 70], temperature=0, max_new_tokens=20, ignore_eos=True)
        for place in (tmp_path / "bytes", tmp_path / "F32.gguf")
    ]
    assert texts[0] == texts[1] != ""
