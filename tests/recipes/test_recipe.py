"""The core module's promises: exact gradients whatever the split, refused non-finite steps, schedules that count updates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from framework.batches.types import IGNORE
from framework.errors import ConfigError
from framework.recipes.recipe import NonFiniteLoss, Recipe
from framework.schedulers.base import Scheduler


class Recorder(torch.optim.SGD):
    """SGD that keeps the gradients it was given."""

    def __init__(self, groups: Any, lr: float = 0.1) -> None:
        super().__init__(groups, lr=lr)
        self.seen: list[list[torch.Tensor]] = []

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        self.seen.append([p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None])
        super().step()
        return loss


def fit(run: tuple[Any, Any, Any]) -> tuple[Any, Any]:
    recipe, data, trainer = run
    trainer.fit(recipe, data)
    return recipe, trainer


def test_accumulation_gives_the_gradients_of_one_large_batch(small_run: Any) -> None:
    """TRAP-20: micro-batches of unequal numbers of trained tokens count by tokens, not by batches."""
    options = {
        "recipe_arguments": {"optimizer": Recorder},
        "data_arguments": {"mask_documents": True},
        "precision": "64-true",
        "max_steps": 3,
    }
    whole, _ = fit(small_run(batch_size=8, **options))
    split, _ = fit(small_run(batch_size=2, accumulate_grad_batches=4, **options))
    assert split.progress.items == whole.progress.items
    for step in range(3):
        for one, many in zip(whole.optimizers().seen[step], split.optimizers().seen[step], strict=True):
            torch.testing.assert_close(many, one, atol=1e-12, rtol=0)


def test_gradient_is_that_of_the_mean_over_trained_tokens(small_run: Any) -> None:
    recipe, _ = fit(
        small_run(
            batch_size=2,
            precision="64-true",
            max_steps=1,
            recipe_arguments={"optimizer": Recorder},
            data_arguments={"mask_documents": True},
        )
    )
    data = recipe.data
    batch = next(iter(data.train_dataloader()))
    reference, _, _ = small_run()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    network = reference._make_network(vocab_size=data.tokenizer.vocab_size, context_length=16)
    torch.set_default_dtype(torch.float32)
    logits = network.logits(network(batch.ids_BT, batch.positions_BT, batch.documents_BT))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORE)
    loss.backward()
    assert math.isclose(recipe.last_step.total / recipe.last_step.num_items, loss.item(), rel_tol=1e-12)
    expected = sorted(p.grad.norm().item() for p in network.parameters())
    seen = sorted(gradient.norm().item() for gradient in recipe.optimizers().seen[0])
    assert seen == pytest.approx(expected, abs=1e-12)


def test_clips_once_on_the_whole_gradient(small_run: Any) -> None:
    """TRAP-26, and the logged norm is the one before clipping."""
    recipe, _ = fit(small_run(recipe_arguments={"optimizer": Recorder}, gradient_clip_val=1e-3, max_steps=1))
    norm = torch.nn.utils.get_total_norm(recipe.optimizers().seen[0])
    assert norm.item() == pytest.approx(1e-3, rel=1e-2)
    assert recipe.last_step.gradient_norm > 1e-2


class Halving(Scheduler):
    def factor(self, step: int, total_steps: int) -> float:
        return 0.5**step


def poison(recipe: Recipe, steps: set[int]) -> None:
    """Make the loss of some steps NaN."""
    honest = recipe.objective

    def objective(batch: Any) -> Any:
        result = honest(batch)
        return result._replace(total=result.total * math.nan) if recipe.progress.step in steps else result

    recipe.objective = objective  # type: ignore[method-assign]


def test_a_non_finite_step_changes_nothing_and_the_schedule_waits(small_run: Any) -> None:
    """TRAP-27, L10: weights, moments and learning rate are those before the step; it counts toward max_steps and is logged."""
    recipe, data, trainer = small_run(max_steps=3, recipe_arguments={"scheduler": Halving()})
    poison(recipe, {1})
    states: list[Any] = []

    from lightning.pytorch import Callback

    class Snapshot(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            optimizer = trainer.optimizers[0]
            moments = [value.clone() for state in optimizer.state.values() for value in state.values()]
            states.append(([p.detach().clone() for p in pl_module.parameters()], moments, optimizer.param_groups[0]["lr"]))

    trainer.callbacks.append(Snapshot())
    trainer.fit(recipe, data)
    for before, after in zip(states[0][0] + states[0][1], states[1][0] + states[1][1], strict=True):
        assert torch.equal(before, after)
    assert [state[2] for state in states] == [1e-2, 5e-3, 5e-3]
    assert (recipe.progress.step, recipe.progress.updates, recipe.progress.skipped) == (3, 2, 1)
    assert any(not torch.equal(a, b) for a, b in zip(states[1][0], states[2][0], strict=True))


def test_non_finite_stop_ends_the_run(small_run: Any) -> None:
    recipe, data, trainer = small_run(max_steps=3, recipe_arguments={"non_finite": "stop"})
    poison(recipe, {1})
    with pytest.raises(NonFiniteLoss, match="step 2"):
        trainer.fit(recipe, data)


def test_non_finite_steps_in_a_row_end_the_run(small_run: Any) -> None:
    recipe, data, trainer = small_run(max_steps=20, recipe_arguments={"max_non_finite_steps": 3})
    poison(recipe, {2, 3, 4, 5})
    with pytest.raises(NonFiniteLoss, match=r"step 5: .*3 time"):
        trainer.fit(recipe, data)


def test_untrained_loss_is_near_the_logarithm_of_the_vocabulary(small_run: Any) -> None:
    """TRAP-19."""
    recipe, _ = fit(small_run(max_steps=1))
    assert recipe.last_step.total / recipe.last_step.num_items == pytest.approx(math.log(recipe.network.vocab_size), abs=0.25)


def test_same_seed_same_weights_to_the_bit(small_run: Any) -> None:
    """TRAP-39, with dropout."""
    first, _ = fit(small_run(dropout=0.3))
    second, _ = fit(small_run(dropout=0.3))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_another_seed_gives_other_weights(small_run: Any) -> None:
    first, _ = fit(small_run(max_steps=1))
    second, _ = fit(small_run(max_steps=1, recipe_arguments={"seed": 1}))
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


def test_random_numbers_drawn_elsewhere_do_not_change_training(small_run: Any) -> None:
    from lightning.pytorch import Callback

    class Draw(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            torch.rand(7)

    first, _ = fit(small_run(dropout=0.3))
    second, _ = fit(small_run(dropout=0.3, callbacks=[Draw()]))
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))


def test_registries_list_the_parts() -> None:
    assert {"tokenizers", "optimizers", "schedulers", "samplers", "recipes"} <= set(Recipe.registries)
    assert "Muon" in Recipe.registries["optimizers"]
    assert Recipe.registries["recipes"]["Pretrain"].__name__ == "Pretrain"


def test_max_steps_is_needed(small_run: Any) -> None:
    recipe, data, trainer = small_run(max_steps=-1)
    with pytest.raises(ConfigError, match="max_steps"):
        trainer.fit(recipe, data)


def test_vocabulary_too_small_is_named(small_run: Any) -> None:
    import functools

    from framework.networks.shape import NetworkShape
    from framework.networks.transformer import Transformer

    recipe, data, trainer = small_run()
    recipe._make_network = functools.partial(Transformer, NetworkShape(1, 8, 1), vocab_size=10)
    with pytest.raises(ConfigError, match="vocab_size is 10 and the tokenizer has"):
        trainer.fit(recipe, data)


def test_validation_is_token_weighted_and_independent_of_the_batch_size(small_run: Any) -> None:
    """TRAP-24."""
    results = []
    for batch_size in (1, 7):
        recipe, data, trainer = small_run(
            batch_size=batch_size,
            limit_val_batches=1.0,
            max_steps=1,
            recipe_arguments={"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.0)},
        )
        trainer.fit(recipe, data)
        results.append(trainer.validate(recipe, data, verbose=False)[0])
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    assert results[0]["val/perplexity"] == pytest.approx(math.exp(results[0]["val/loss"]), rel=1e-9)


def test_training_mode_is_restored_after_validation(small_run: Any) -> None:
    """TRAP-25."""
    from lightning.pytorch import Callback

    modes = []

    class Mode(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            modes.append(pl_module.network.training)

        def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            modes.append(not pl_module.network.training)

    fit(small_run(limit_val_batches=1, val_check_interval=1, max_steps=3, callbacks=[Mode()]))
    assert modes == [True] * len(modes)
    assert len(modes) == 6


def test_overfits_one_sequence(small_run: Any, tmp_path: Any) -> None:
    """TRAP-18: a sequence whose every token decides the next is learnt by heart, to a loss under 0.01."""
    from framework.datasets.text_files import TextFiles

    text = tmp_path / "one.txt"
    text.write_text("abcdefghijklmnopqrstuvwxyz0123")
    recipe, data, trainer = small_run(batch_size=1, max_steps=120, data_arguments={"validation_fraction": 0.0})
    from framework.batches.packed_text import PackedText

    data = PackedText(TextFiles(str(text)), data.tokenizer, context_length=30, batch_size=4, validation_fraction=0.0)
    trainer.fit(recipe, data)
    assert recipe.last_step.total / recipe.last_step.num_items < 0.01
