"""Rows of a batch are about equally long, and each row is read once in a pass."""

import pytest
import torch
from tiny_embeddings import make_rows
from tiny_models import make_blocks

from homodistil_hf.data.lengths import LengthSampler, by_length


def test_rows_of_a_batch_are_about_equally_long():
    rows = make_rows(203)
    ordered = by_length(rows, batch_size=8)
    assert len(ordered) == 200
    lengths = torch.tensor([len(ids) for ids in ordered["input_ids"]]).view(-1, 8)
    assert int((lengths.max(1).values - lengths.min(1).values).max()) <= 2
    assert len(set(lengths[:, 0].tolist())) > 3
    assert lengths[:, 0].tolist() != sorted(lengths[:, 0].tolist())
    assert by_length(rows, batch_size=8)["input_ids"][:] == ordered["input_ids"][:]
    assert by_length(rows, batch_size=8, seed=1)["input_ids"][:] != ordered["input_ids"][:]


def test_a_stream_is_sorted_as_it_comes():
    rows = make_rows(8 * 64 * 2 + 3)
    ordered = list(by_length(rows.to_iterable_dataset(), batch_size=8))
    assert sorted(row["input_ids"] for row in ordered) == sorted(rows["input_ids"])
    lengths = torch.tensor([len(row["input_ids"]) for row in ordered[: 8 * 128]]).view(-1, 8)
    assert int((lengths.max(1).values - lengths.min(1).values).max()) <= 2
    assert lengths[:, 0].tolist() != sorted(lengths[:, 0].tolist())
    assert list(by_length(rows.to_iterable_dataset(), batch_size=8)) == ordered


@pytest.mark.parametrize("is_table", [True, False])
def test_each_pass_has_all_rows_in_another_order_and_its_last_ones_are_no_longer_than_others(is_table):
    rows = make_rows(8 * 128 + 5)
    sampler = LengthSampler(rows if is_table else list(rows), batch_size=8, seed=0)
    passes = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        passes.append(list(sampler))
        assert sorted(passes[-1]) == list(range(len(rows))) == list(range(len(sampler)))
        lengths = torch.tensor([sampler.lengths[index] for index in passes[-1][: 8 * 128]]).view(-1, 8)
        assert int((lengths.max(1).values - lengths.min(1).values).max()) <= 2
    assert len(set(map(tuple, passes))) == len(passes)
    assert len({tuple(order[-5:]) for order in passes}) == len(passes)  # left out by chance, not by length
    again = LengthSampler(rows, batch_size=8, seed=0)
    again.set_epoch(2)
    assert list(again) == passes[2]


def test_a_stream_is_not_sorted_by_the_trainer(make_trainer):
    settings = {"train_sampling_strategy": "group_by_length", "max_steps": 2}
    trainer = make_trainer(train_dataset=make_blocks(16).to_iterable_dataset(), **settings)
    with pytest.raises(ValueError, match=r"group_by_length' sorts a table, but .* give homodistil_hf.by_leng"):
        trainer.train()
