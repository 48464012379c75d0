"""DataModules of fine-tuning: what is trained, what is held out, the order, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from framework.batches.demonstrations import Demonstrations
from framework.batches.preferences import Preferences
from framework.batches.prompts import Prompts
from framework.batches.types import IGNORE
from framework.datasets.json_lines import JsonLines
from framework.errors import DataError
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte


class PadIsEnd(Byte):
    """As many published tokenizers: the padding's id is the end's."""

    @property
    def pad_id(self) -> int:
        return self.eos_id


def rows(folder: Path, records: list[dict[str, Any]]) -> JsonLines:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return JsonLines(str(path))


def sums(count: int = 60) -> list[dict[str, Any]]:
    return [{"prompt": f"{number}+{number % 7}=", "completion": str(number + number % 7) * (1 + number % 3)} for number in range(count)]


def demonstrations(folder: Path, records: list[dict[str, Any]] | None = None, **arguments: Any) -> Demonstrations:
    defaults = {"context_length": 32, "batch_size": 4, **arguments}
    data = Demonstrations(rows(folder, sums() if records is None else records), PadIsEnd(), **defaults)
    data.setup()
    return data


def trained_texts(batch: Any) -> list[str]:
    """What is trained of each row, as text; tokens after each other that are not neighbours are parted by |."""
    texts = []
    for targets in batch.targets_BT.tolist():
        pieces, piece = [], []
        for target in [*targets, IGNORE]:
            if target == IGNORE:
                pieces += [Byte().decode(piece)] if piece else []
                piece = []
            else:
                piece.append(target)
        texts.append("|".join(pieces))
    return texts


def test_the_completion_and_its_end_are_trained_and_nothing_else(tmp_path: Path) -> None:
    """TRAP-5: the padding is the end token's id, and the end is trained all the same."""
    data = demonstrations(tmp_path, [{"prompt": "ab", "completion": "cde"}] * 1, validation_fraction=0.0, packing=False)
    assert data.tokenizer.pad_id == data.tokenizer.eos_id
    batch = data.training_batch(0)
    eos = data.tokenizer.eos_id
    assert batch.ids_BT[0].tolist() == [*b"abcde"] and batch.targets_BT[0].tolist() == [IGNORE, *b"cde", eos]


def test_a_chat_trains_every_reply_and_what_ends_it(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "so"}]
    chat += [{"role": "assistant", "content": "no"}]
    data = demonstrations(
        tmp_path, [{"messages": chat}], validation_fraction=0.0, packing=False, chat_template="simple", context_length=200
    )
    end = Byte().decode([data.tokenizer.eos_id])
    assert [text.replace(" ", "") for text in trained_texts(data.training_batch(0))[:1]] == [f"yes{end}|no{end}"]


def test_every_row_once_an_epoch_in_another_order_each(tmp_path: Path) -> None:
    for packing, bucketing in ((True, False), (False, True), (False, False)):
        data = demonstrations(tmp_path, packing=packing, bucketing=bucketing, batch_size=3, validation_fraction=0.2)
        visited = [row for number in range(data.num_rows) for row in data.training_rows(number)]
        if not data.bucketing:
            epochs = [visited[start : start + data.num_rows] for start in range(0, 3 * data.num_rows, data.num_rows)]
            assert all(sorted(epoch) == list(range(data.num_rows)) for epoch in epochs) and epochs[0] != epochs[1]
        counts = Counter(visited)
        assert set(counts) == set(range(data.num_rows))


def test_bucketing_keeps_each_epoch_whole_and_saves_padding(tmp_path: Path) -> None:
    records = [{"prompt": "p", "completion": "x" * (1 + number * 7 % 25)} for number in range(256)]
    waste = {}
    for bucketing in (True, False):
        data = demonstrations(tmp_path, records, packing=False, bucketing=bucketing, batch_size=4, validation_fraction=0.0)
        numbers = [row for number in range(64) for row in data.training_rows(number)]
        assert sorted(numbers) == list(range(256))
        waste[bucketing] = sum(int((data.training_batch(number).targets_BT == IGNORE).sum()) for number in range(64))
    assert waste[True] < 0.5 * waste[False]


def test_held_out_prompts_are_never_trained_on(tmp_path: Path) -> None:
    records = [{"prompt": f"q{number % 20}", "completion": str(number)} for number in range(200)]
    data = demonstrations(tmp_path, records, validation_fraction=0.3)

    def prompts(items: Any) -> set[bytes]:
        return {bytes(item.ids[~item.is_reply].tolist()) for item in items}

    assert data.validation and not prompts(data.train) & prompts(data.validation)
    assert len(data.train) + len(data.validation) == 200


def test_few_records_still_leave_both_sides(tmp_path: Path) -> None:
    data = demonstrations(tmp_path, sums(3), validation_fraction=0.01)
    assert (len(data.train), len(data.validation)) == (2, 1)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_counts_every_item_once_over_all_ranks(tmp_path: Path, world: int) -> None:
    """TRAP-12, 24: ranks get as many batches; fillers have no target."""
    data = demonstrations(tmp_path, validation_fraction=0.4, batch_size=4)
    batches = -(-len(data.validation) // 4)
    numbers = [range(rank, -(-batches // world) * world, world) for rank in range(world)]
    assert len({len(each) for each in numbers}) == 1
    counted = sum(int((data.validation_batch(number).targets_BT != IGNORE).sum()) for each in numbers for number in each)
    assert counted == sum(int(item.is_reply[1:].sum()) for item in data.validation)


def test_packing_changes_neither_loss_nor_gradient(tmp_path: Path) -> None:
    """TRAP-10: in float64, for rotary and for learned positions."""
    from framework.losses import next_token

    apart = demonstrations(tmp_path, packing=False, validation_fraction=0.0, batch_size=60, bucketing=False)
    packed = demonstrations(tmp_path, packing=True, validation_fraction=0.0, batch_size=1)
    packed.batch_size = packed.num_rows
    for positions in ("rotary", "learned"):
        torch.manual_seed(0)
        network = Transformer(NetworkShape(2, 32, 2, positions=positions), Byte().vocab_size, 32).double()  # type: ignore[arg-type]
        found = []
        for data in (apart, packed):
            batch = data.training_batch(0)
            network.zero_grad()
            loss = next_token(network(batch.ids_BT, batch.positions_BT, batch.documents_BT), network.head_weight_VD, batch.targets_BT)
            loss.backward()
            found.append((loss.detach(), [parameter.grad.clone() for parameter in network.parameters()]))  # type: ignore[union-attr]
        torch.testing.assert_close(found[0][0], found[1][0], atol=1e-10, rtol=1e-12)
        for one, other in zip(found[0][1], found[1][1]):
            torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


def test_long_ones_are_cut_or_left_out_and_counted(tmp_path: Path, capsys: Any) -> None:
    """TRAP-6: no row without a trained token."""
    records = [
        {"prompt": "p" * 4, "completion": "r"},
        {"prompt": "p" * 30, "completion": "r" * 30},
        {"prompt": "p" * 40, "completion": "r"},
    ]
    data = demonstrations(tmp_path, records, validation_fraction=0.0)
    assert (len(data.train), data.num_cut, data.num_dropped) == (2, 1, 1)
    assert all(item.is_reply[1:].any() and len(item.ids) <= 33 for item in data.train)
    assert "of 3 records 1 cut to and 1 left out" in capsys.readouterr().err
    assert len(demonstrations(tmp_path, records, validation_fraction=0.0, too_long="drop").train) == 1


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no record is left"):
        demonstrations(tmp_path, [{"prompt": "p" * 99, "completion": "r"}])


def test_a_bad_row_is_named(tmp_path: Path) -> None:
    bad = [*sums(5), {"prompt": "q"}]
    with pytest.raises(DataError, match=r"rows\.jsonl:6"):
        demonstrations(tmp_path, bad)
    assert demonstrations(tmp_path, bad, max_bad_rows=0.5, validation_fraction=0.0).train


def test_the_fingerprint_knows_what_decides_the_batches(tmp_path: Path) -> None:
    base = demonstrations(tmp_path).fingerprint()
    assert base == demonstrations(tmp_path).fingerprint() == demonstrations(tmp_path, num_workers=2).fingerprint()
    for change in ({"packing": False}, {"batch_size": 5}, {"context_length": 40}, {"seed": 1}, {"validation_fraction": 0.2}):
        assert demonstrations(tmp_path, **change).fingerprint() != base, change
    assert demonstrations(tmp_path, sums(61)).fingerprint() != base


def test_workers_change_nothing(tmp_path: Path) -> None:
    found = []
    for num_workers in (0, 2):
        loader = iter(demonstrations(tmp_path, num_workers=num_workers).train_dataloader())
        found.append([next(loader) for _ in range(5)])
    for one, other in zip(*found):
        assert all(torch.equal(a, b) for a, b in zip(one, other))


def preferences(folder: Path, records: list[dict[str, Any]], **arguments: Any) -> Preferences:
    data = Preferences(
        rows(folder, records), PadIsEnd(), **{"context_length": 32, "batch_size": 4, "validation_fraction": 0.0, **arguments}
    )
    data.setup()
    return data


def test_pairs_stand_in_two_halves_with_their_replies_trained(tmp_path: Path) -> None:
    data = preferences(tmp_path, [{"prompt": "ab", "chosen": "c", "rejected": "defg", "margin": 1.5}])
    batch, eos = data.training_batch(0), data.tokenizer.eos_id
    assert batch.ids_RT[0].tolist() == [*b"abc", eos, eos, eos, eos] and batch.ids_RT[4].tolist() == [*b"abdefg", eos]
    assert batch.targets_RT[0].tolist() == [IGNORE, ord("c"), eos, *[IGNORE] * 4]
    assert batch.targets_RT[4].tolist() == [IGNORE, *b"defg", eos, IGNORE]
    assert batch.lengths_R.tolist() == [4] * 4 + [7] * 4 and batch.margins_B.tolist() == [1.5] * 4 and batch.weights_B.tolist() == [1.0] * 4


def test_long_pairs_are_left_out_whole(tmp_path: Path) -> None:
    records = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b" * 99, "rejected": "c"}]
    data = preferences(tmp_path, records)
    assert len(data.train) == 1 and data.num_dropped == 1
    assert len(preferences(tmp_path, records, too_long="truncate").train) == 2


def test_prompts_leave_room_for_the_reply_and_keep_their_fields(tmp_path: Path) -> None:
    records = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "1" * 30, "answer": "0"}]
    data = Prompts(rows(tmp_path, records), Byte(), context_length=32, max_new_tokens=4, batch_size=2, validation_fraction=0.0)
    data.setup()
    assert [question.text for question in data.train] == ["1+1="] and data.train[0].fields["answer"] == "2"
    assert data.question(0) == data.question(17) == data.train[0]
    with pytest.raises(DataError, match="policy writes"):
        data.train_dataloader()


def test_a_prompt_is_a_demonstrations_beginning(tmp_path: Path) -> None:
    """TRAP-48: reward model, SFT and RL build the same ids."""
    chat = [{"role": "user", "content": "hi there"}]
    for template, prompt, reply in ((None, "12+3=", "15"), ("simple", chat, [{"role": "assistant", "content": "yes"}])):
        options: dict[str, Any] = {"context_length": 99, "batch_size": 1, "validation_fraction": 0.0, "chat_template": template}
        shown = Demonstrations(rows(tmp_path, [{"prompt": prompt, "completion": reply}]), Byte(), **options)
        shown.setup()
        pair = preferences(
            tmp_path,
            [{"prompt": prompt, "chosen": reply, "rejected": "zz" if template is None else [{**reply[0], "content": "zz"}]}],
            **options,
        )  # type: ignore[index, dict-item]
        asked = Prompts(rows(tmp_path, [{"prompt": prompt}]), Byte(), max_new_tokens=8, **options)
        asked.setup()
        ids = asked.train[0].ids
        item = shown.train[0]
        assert item.ids[: len(ids)].tolist() == ids and not item.is_reply[: len(ids)].any() and item.is_reply[len(ids) :].all()
        assert pair.train[0].chosen.ids.tolist() == item.ids.tolist()
