"""When checkpoints are made and kept (TRAP-110), and that a run never resumes as another one (TRAP-117)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from framework.errors import CheckpointError
from framework.training.checkpoint_io import completed, newest, read_manifest
from framework.training.checkpoints import Checkpoints


def steps(folder: Path) -> list[int]:
    return [int(path.stem.removeprefix("step-")) for path in completed(folder / "checkpoints")]


def fit(small_run: Any, checkpoints: Checkpoints, ckpt_path: Path | None = None, **options: Any) -> Any:
    recipe, data, trainer = small_run(callbacks=[checkpoints], enable_checkpointing=True, **options)
    trainer.fit(recipe, data, ckpt_path=ckpt_path)
    return recipe


def test_every_n_steps_and_the_end(small_run: Any, tmp_path: Path) -> None:
    fit(small_run, Checkpoints(every_n_steps=2, keep_last=10), max_steps=5)
    assert steps(tmp_path) == [2, 4, 5]


def test_keeps_the_last_and_the_best(small_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best is kept however old; nothing else is."""
    values = iter([3.0, 1.0, 2.0, 4.0])
    from framework.recipes.metrics import TokenMetrics

    honest = TokenMetrics.compute
    monkeypatch.setattr(TokenMetrics, "compute", lambda self: {**honest(self), "val/loss": torch.tensor(next(values))})
    fit(small_run, Checkpoints(every_n_steps=1, keep_last=2, keep_best=1), max_steps=4, val_check_interval=1, limit_val_batches=1)
    assert steps(tmp_path) == [2, 3, 4]
    assert read_manifest(tmp_path / "checkpoints" / "step-00000002.ckpt")["metrics"] == {"val/loss": 1.0}


def test_best_alone_is_saved_at_its_validation(small_run: Any, tmp_path: Path) -> None:
    fit(small_run, Checkpoints(every_n_steps=0, keep_last=1, keep_best=1), max_steps=6, val_check_interval=2, limit_val_batches=1)
    assert steps(tmp_path)[-1] == 6
    assert all("val/loss" in read_manifest(path)["metrics"] for path in completed(tmp_path / "checkpoints"))


def test_resumes_from_library_code_to_the_bit(small_run: Any, tmp_path: Path) -> None:
    whole = fit(small_run, Checkpoints(every_n_steps=3, keep_last=9), max_steps=8, dropout=0.2)
    for step in (3, 6):
        resumed = fit(small_run, Checkpoints(every_n_steps=0), tmp_path / "checkpoints" / f"step-{step:08}.ckpt", max_steps=8, dropout=0.2)
        assert resumed.progress == whole.progress
        assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_another_network_is_refused(small_run: Any, tmp_path: Path) -> None:
    import functools

    from framework.networks.shape import NetworkShape
    from framework.networks.transformer import Transformer

    fit(small_run, Checkpoints(), max_steps=1)
    recipe, data, trainer = small_run(max_steps=2)
    recipe._make_network = functools.partial(Transformer, NetworkShape(3, 16, 2))
    with pytest.raises(CheckpointError, match=r"another network: .* is "):
        trainer.fit(recipe, data, ckpt_path=newest(tmp_path / "checkpoints"))


@pytest.mark.parametrize("change", [{"seed": 5}, {"validation_fraction": 0.2}])
def test_other_data_is_refused(small_run: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    fit(small_run, Checkpoints(), max_steps=1)
    recipe, data, trainer = small_run(max_steps=2, data_arguments=change)
    with pytest.raises(CheckpointError, match="trained on other data"):
        trainer.fit(recipe, data, ckpt_path=newest(tmp_path / "checkpoints"))


def test_another_tokenizer_is_refused(small_run: Any, tmp_path: Path) -> None:
    from framework.tokenizers.byte import Byte

    fit(small_run, Checkpoints(), max_steps=1)
    recipe, data, trainer = small_run(max_steps=2)
    data._given_tokenizer = Byte(special_tokens=("<|endoftext|>", "<|other|>", "<|im_end|>", "<|pad|>"))
    with pytest.raises(CheckpointError, match="another tokenizer"):
        trainer.fit(recipe, data, ckpt_path=newest(tmp_path / "checkpoints"))


@pytest.mark.parametrize("arguments", [{"every_n_steps": -1}, {"keep_last": 0}, {"keep_best": -1}])
def test_senseless_settings(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Checkpoints(**arguments)
