"""Reward model and DPO: losses written out, padding that changes nothing, references that stay, resumption."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Data, Recorder, adamw, network, scored, weights  # type: ignore[import-not-found]

from framework.batches.types import IGNORE
from framework.errors import ConfigError
from framework.networks.scalar_head import ScalarHead
from framework.recipes.dpo import DPO
from framework.recipes.metrics import PairMetrics
from framework.recipes.reward_model import RewardModel
from framework.recipes.sft import SFT


def head(zero: bool = False) -> ScalarHead:
    torch.manual_seed(0)
    return ScalarHead(network, vocab_size=257, context_length=32, zero=zero)  # type: ignore[arg-type]


def test_the_score_is_that_of_the_last_token_whatever_the_padding(data: Data) -> None:
    """TRAP-43, 44."""
    rows, starts = [[1, 2, 3], [4, 256, 5, 6, 256], [7]], torch.tensor([1, 2, 0])  # the padding's id in the middle too
    for pooling in ("last", "mean"):
        scorer = head().double()
        scorer.pooling = pooling
        alone = [scorer.scores(torch.tensor([row]), torch.tensor([len(row)]), starts[at : at + 1]) for at, row in enumerate(rows)]
        numbers = [scorer.values(scorer(torch.tensor([row])))[0] for row in rows]
        expected = [each[-1] if pooling == "last" else each[int(starts[at]) :].mean() for at, each in enumerate(numbers)]
        torch.testing.assert_close(torch.cat(alone), torch.stack(expected), atol=1e-12, rtol=0)
        for pad in (256, 0):
            ids = torch.tensor([row + [pad] * (8 - len(row)) for row in rows])
            together = scorer.scores(ids, torch.tensor([3, 5, 1]), starts)
            torch.testing.assert_close(together, torch.cat(alone), atol=1e-12, rtol=0)


def test_the_head_begins_as_published() -> None:
    """TRAP-46: deviation 1 / sqrt(d + 1), bias 0."""
    from framework.networks.shape import NetworkShape
    from framework.networks.transformer import Transformer

    torch.manual_seed(0)
    wide = ScalarHead(lambda **_: Transformer(NetworkShape(1, 20_000, 1, head_width=8, feedforward_width=8), 2, 2))  # type: ignore[misc]
    assert wide.head.weight.std().item() == pytest.approx(20_001**-0.5, rel=0.02)
    assert not wide.head.bias.any() and not head(zero=True).head.weight.any()


def test_normalised_scores_are_kept_in_the_model(data: Data, train: Any, tmp_path: Path) -> None:
    """TRAP-47."""
    from framework import checkpoint

    recipe = train(RewardModel(scored, adamw()), data.preferences(validation_fraction=0.0), max_steps=5)
    recipe.save_model(tmp_path / "model")
    loaded = checkpoint.load_network(tmp_path / "model")
    assert isinstance(loaded, ScalarHead)
    sides = [side for pair in recipe.data.train for side in (pair.chosen, pair.rejected)]
    scores = torch.cat(
        [loaded.scores(torch.tensor(side.ids[None].astype("int64")), torch.tensor([len(side.ids)]), torch.tensor([0])) for side in sides]
    )
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-4) and scores.std().item() == pytest.approx(1.0, abs=1e-4)


def as_it_began(make: Any, recipe: Any) -> Any:
    """The recipe's network before its first step, in double precision."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    fresh = make(vocab_size=recipe.network.vocab_size, context_length=32)
    torch.set_default_dtype(torch.float32)
    return fresh


def assert_first_gradients(recipe: Any, fresh: Any) -> None:
    """That the optimizer saw in its first step what `fresh` has."""
    names = {id(parameter): name for name, parameter in recipe.network.named_parameters()}
    order = [names[id(parameter)] for group in recipe.optimizers().param_groups for parameter in group["params"]]
    for number, gradient in recipe.optimizers().seen[0].items():
        torch.testing.assert_close(gradient, dict(fresh.named_parameters())[order[number]].grad, atol=1e-12, rtol=1e-9)


def test_the_reward_models_gradient_written_out(data: Data, train: Any) -> None:
    recipe = RewardModel(scored, Recorder, center_rewards_coefficient=0.1)
    train(recipe, data.preferences(batch_size=6), max_steps=1, precision="64-true")
    batch = recipe.data.training_batch(0)
    fresh = as_it_began(scored, recipe)
    total = torch.zeros((), dtype=torch.float64)
    for pair in range(6):
        one, other = (fresh.values(fresh(batch.ids_RT[row : row + 1, : batch.lengths_R[row]]))[0, -1] for row in (pair, pair + 6))
        total = total - F.logsigmoid(one - other) + 0.1 * (one + other) ** 2
    (total / 6).backward()
    assert recipe.last_step.total / 6 == pytest.approx((total / 6).item(), abs=1e-12)
    assert_first_gradients(recipe, fresh)


def test_a_reward_model_learns_what_is_preferred(data: Data, train: Any) -> None:
    recipe = train(
        RewardModel(scored, adamw(5e-3)),
        data.preferences(validation_fraction=0.2, batch_size=16),
        max_steps=60,
        limit_val_batches=1.0,
        val_check_interval=60,
    )
    metrics = recipe.trainer.callback_metrics
    assert metrics["val/accuracy"] > 0.9 and metrics["val/calibration_error"] < 0.3


def test_a_network_without_scores_is_refused(data: Data, train: Any) -> None:
    with pytest.raises(ConfigError, match="ScalarHead"):
        train(RewardModel(network, adamw()), data.preferences())


def test_calibration_of_known_confidence() -> None:
    metric = PairMetrics()
    margin = torch.tensor([2.0] * 4 + [-2.0])  # sigmoid: 0.8808 sure, right four times of five
    metric.update(torch.zeros(5), margin, torch.ones(5))
    metric.update(torch.ones(3), torch.full((3,), 50.0), torch.zeros(3))  # fillers
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found["val/accuracy"] == pytest.approx(0.8) and found["val/calibration_error"] == pytest.approx(0.8808 - 0.8, abs=1e-4)
    assert found["val/loss"] == 0.0


KINDS = [{"loss_type": "sigmoid"}, {"loss_type": "ipo"}, {"loss_type": "hinge"}, {"loss_type": "robust", "label_smoothing": 0.1}]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["loss_type"])
def test_dpo_begins_without_a_preference(kind: dict[str, Any], data: Data, train: Any) -> None:
    """TRAP-72: ln 2 for the logistic ones; policy and reference are one."""
    recipe = train(DPO(network, adamw(), **kind), data.preferences(), max_steps=1)
    expected = {"sigmoid": 0.693147, "robust": 0.693147, "hinge": 1.0, "ipo": 25.0}[kind["loss_type"]]
    assert recipe.last_step.total / recipe.last_step.num_items == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["loss_type"])
def test_a_precomputed_reference_is_the_live_one(kind: dict[str, Any], data: Data, train: Any) -> None:
    """TRAP-74, on training and validation."""
    options = {"max_steps": 6, "limit_val_batches": 1.0, "val_check_interval": 6, "precision": "64-true"}
    runs = [
        train(DPO(network, adamw(), reference=mode, **kind), data.preferences(validation_fraction=0.2), **options)
        for mode in ("live", "precomputed")
    ]
    assert not runs[1]._reference
    for name, weight in weights(runs[0].network).items():
        torch.testing.assert_close(weights(runs[1].network)[name], weight, atol=1e-5, rtol=0)
    one, other = (run.trainer.callback_metrics["val/loss"] for run in runs)
    assert one.item() == pytest.approx(other.item(), abs=1e-5)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_the_gradient_with_rpo_alpha_written_out(loss_type: Any, data: Data, train: Any) -> None:
    """Of the first step, where policy and reference are one: the slope of the preference is known, the chosen reply's mean is added."""
    recipe = DPO(network, Recorder, beta=0.3, loss_type=loss_type, rpo_alpha=0.7)
    train(recipe, data.preferences(batch_size=4), max_steps=1, precision="64-true")
    batch = recipe.data.training_batch(0)
    fresh = as_it_began(network, recipe)
    table = fresh.logits(fresh(batch.ids_RT)).log_softmax(-1)
    replies = [
        torch.stack([table[row, place, target] for place, target in enumerate(batch.targets_RT[row].tolist()) if target != IGNORE])
        for row in range(8)
    ]
    total = torch.zeros((), dtype=torch.float64)
    for chosen, rejected in zip(replies[:4], replies[4:]):
        if loss_type == "sigmoid":  # -log sigmoid(0.3 margin) at 0
            margin = chosen.sum() - rejected.sum()
            total = total + 0.6931471805599453 - 0.15 * (margin - margin.detach())
        else:  # (margin - 1 / 0.6)^2 at 0, of means
            margin = chosen.mean() - rejected.mean()
            total = total + (margin - margin.detach() - 1 / 0.6) ** 2
        total = total - 0.7 * chosen.mean()
    (total / 4).backward()
    assert recipe.last_step.total / 4 == pytest.approx((total / 4).item(), abs=1e-9)
    assert_first_gradients(recipe, fresh)


def test_dpo_learns_and_its_reference_stays(data: Data, train: Any) -> None:
    recipe = train(
        DPO(network, adamw(3e-3)),
        data.preferences(validation_fraction=0.2, batch_size=16),
        max_steps=80,
        limit_val_batches=1.0,
        val_check_interval=80,
    )
    assert recipe.trainer.callback_metrics["val/accuracy"] > 0.9
    torch.manual_seed(0)
    fresh = network(vocab_size=recipe.network.vocab_size, context_length=32)
    for name, weight in weights(recipe._reference[0].network).items():
        assert torch.equal(weight, dict(fresh.named_parameters())[name]), name


def test_log_probabilities_are_of_the_reply_only(data: Data) -> None:
    """TRAP-73: padding changes nothing."""
    from framework.recipes.sequences import sequence_log_probs

    torch.manual_seed(0)
    net = network(vocab_size=257, context_length=32).double().eval()
    ids, targets = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[IGNORE, 3, 4, 256]])
    table = net.logits(net(ids))[0].log_softmax(-1)
    expected = table[1, 3] + table[2, 4] + table[3, 256]
    padded = F.pad(ids, (0, 3), value=9), F.pad(targets, (0, 3), value=IGNORE)
    for given in ((ids, targets), padded):
        found = sequence_log_probs(net, *given)
        torch.testing.assert_close(found.sums_R[0], expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(found.means_R[0], expected / 3, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "make, kind",
    [
        (lambda: DPO(network, adamw(), reference="precomputed"), "preferences"),
        (lambda: DPO(network, adamw()), "preferences"),
        (lambda: RewardModel(scored, adamw()), "preferences"),
        (lambda: SFT(network, adamw()), "demonstrations"),
    ],
    ids=["dpo-precomputed", "dpo-live", "reward-model", "sft"],
)
def test_resuming_is_never_having_stopped(make: Any, kind: str, data: Data, train: Any, tmp_path: Path) -> None:
    module = getattr(data, kind)
    whole = train(make(), module(), max_steps=8, save_every=1)
    for step in (3, 7):
        resumed = train(make(), module(), max_steps=8, resume=tmp_path / "checkpoints" / f"step-{step:08}.ckpt")
        for name, weight in weights(resumed.network).items():
            assert torch.equal(weight, weights(whole.network)[name]), (step, name)


@pytest.mark.parametrize(
    "make, kind",
    [
        (lambda: DPO(network, Recorder), "preferences"),
        (lambda: RewardModel(scored, Recorder), "preferences"),
        (lambda: SFT(network, Recorder), "demonstrations"),
    ],
    ids=["dpo", "reward-model", "sft"],
)
def test_accumulation_is_invisible(make: Any, kind: str, data: Data, train: Any) -> None:
    module = getattr(data, kind)
    options = {"max_steps": 2, "precision": "64-true"}
    further = {"bucketing": False} if kind == "preferences" else {}
    whole = train(make(), module(batch_size=8, **further), **options)
    split = train(make(), module(batch_size=2, **further), accumulate_grad_batches=4, **options)
    for one, many in zip(whole.optimizers().seen, split.optimizers().seen):
        for number in one:
            torch.testing.assert_close(many[number], one[number], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    "arguments",
    [{"beta": 0.0}, {"label_smoothing": 0.5}, {"loss_type": "ipo", "label_smoothing": 0.1}, {"loss_type": "robust"}, {"rpo_alpha": -1.0}],
)
def test_settings_that_make_no_sense(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        DPO(network, **arguments)


def test_a_reward_model_goes_on_with_its_head() -> None:
    trained = head()
    again = ScalarHead(lambda **_: trained, pooling=trained.pooling)  # type: ignore[arg-type]
    assert again.base is trained.base and again.head is trained.head and again.deviation is trained.deviation
    other: Any = "mean" if trained.pooling == "last" else "last"
    with pytest.raises(ValueError, match="its base is a reward model with the pooling"):
        ScalarHead(lambda **_: trained, pooling=other)  # type: ignore[arg-type]


def test_a_reward_model_does_not_write(data: Data, train: Any) -> None:
    with pytest.raises(ConfigError, match="gives scores"):
        train(SFT(scored, adamw()), data.demonstrations())
