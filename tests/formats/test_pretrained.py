from __future__ import annotations

from pathlib import Path

import pytest
import torch

from framework import checkpoint, networks
from framework.errors import CheckpointError
from framework.formats.pretrained import pretrained
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte


def saved(directory: Path, shape: NetworkShape) -> Transformer:
    network = Transformer(shape, Byte().vocab_size, 16)
    checkpoint.save(directory, network, Byte(), {})
    return network


def test_a_run_starts_from_the_weights_of_a_model_directory(tmp_path: Path) -> None:
    network = saved(tmp_path / "model", NetworkShape(1, 32, 4, dropout=0.2))
    found = networks.Pretrained(tmp_path / "model")(vocab_size=Byte().vocab_size, context_length=8)
    assert found.training
    assert found.shape == network.shape
    assert found.context_length == 16
    assert all(torch.equal(one, other) for one, other in zip(found.parameters(), network.parameters(), strict=True))


def test_training_it_leaves_the_file_alone(tmp_path: Path) -> None:
    """The parameters are views of the mapped file until they are written to."""
    saved(tmp_path / "model", NetworkShape(1, 32, 4))
    found = pretrained(tmp_path / "model")()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(1)
    checkpoint.verify(tmp_path / "model")


def test_a_network_too_small_for_the_run_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "learned", NetworkShape(1, 32, 4))
    saved(tmp_path / "rotary", NetworkShape(1, 32, 4, positions="rotary"))
    with pytest.raises(CheckpointError, match=r"learned: the network has \d+ ids, the tokenizer 1000"):
        pretrained(tmp_path / "learned")(vocab_size=1000)
    with pytest.raises(CheckpointError, match="takes 16 tokens, the data has rows of 32"):
        pretrained(tmp_path / "learned")(context_length=32)
    stretched = pretrained(tmp_path / "rotary")(context_length=32)
    assert stretched(torch.zeros(1, 32, dtype=torch.long)).shape == (1, 32, 32)
    assert stretched.init_args["context_length"] == 32
