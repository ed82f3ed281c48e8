"""Rows of a batch are about equally long, and each row is read once in a pass."""

import pytest
import torch
from datasets import Dataset
from tiny_embeddings import make_rows
from tiny_models import make_blocks

from homodistil_hf.data.blocks import drawn
from homodistil_hf.data.lengths import LengthSampler, by_length
from homodistil_hf.data.samples import unlabeled_batches
from homodistil_hf.data.shards import num_lanes_of

TEXTS = ["w5 w6 w7", "w8", " ", None, "w9 w10", "w11 w12 w13 w14"]


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


def test_a_stream_of_many_files_stays_sorted_where_it_is_dealt_out():
    """Rows of several lanes would mix lengths again."""
    stream = make_blocks(64).to_iterable_dataset(num_shards=32)
    assert num_lanes_of(stream, 8) == 4
    assert num_lanes_of(by_length(stream, batch_size=8).map(lambda row: row), 8) == 1
    assert num_lanes_of(stream.shuffle(seed=0, buffer_size=4).map(lambda row: row), 8) == 4


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


def test_tokens_that_a_table_makes_as_it_is_read_are_measured():
    texts = Dataset.from_dict({"length": [5, 3, 7, 4]})
    rows = texts.with_transform(lambda batch: {"input_ids": [[1] * length for length in batch["length"]]})
    assert LengthSampler(rows, batch_size=2, seed=0).lengths == [5, 3, 7, 4]


def test_predictions_are_in_the_order_of_the_rows(make_trainer):
    rows = make_rows(20)
    settings = {"train_sampling_strategy": "group_by_length", "per_device_eval_batch_size": 4}
    loader = make_trainer(train_dataset=rows, **settings).get_test_dataloader(rows)
    lengths = [int(one) for batch in loader for one in batch["attention_mask"].sum(-1)]
    assert lengths == [len(ids) for ids in rows["input_ids"]]


def test_a_stream_is_not_sorted_by_the_trainer(make_trainer):
    settings = {"train_sampling_strategy": "group_by_length", "max_steps": 2}
    trainer = make_trainer(train_dataset=make_blocks(16).to_iterable_dataset(), **settings)
    with pytest.raises(ValueError, match=r"group_by_length' sorts a table, but .* give homodistil_hf.by_leng"):
        trainer.train()


def test_rows_of_like_length_are_padded_together(tokenizer):
    batches = unlabeled_batches([TEXTS], tokenizer, batch_size=2)
    assert [batch["input_ids"].tolist() for batch in batches] == [
        [[2, 8, 3, 0], [2, 9, 10, 3]],
        [[2, 5, 6, 7, 3, 0], [2, 11, 12, 13, 14, 3]],
    ]
    assert all(torch.equal(batch["attention_mask"], (batch["input_ids"] != 0).long()) for batch in batches)


def test_pairs_are_told_apart_and_cut(tokenizer):
    (batch,) = unlabeled_batches([["w5 w6", None], ["w7", ""]], tokenizer, max_length=5)
    assert batch["input_ids"].tolist() == [[2, 5, 3, 7, 3]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]]


def test_a_long_text_becomes_several_rows_of_which_some_are_drawn(tokenizer):
    texts = [" ".join(f"w{number}" for number in range(5, 16)), "w20"]
    batches = unlabeled_batches([texts], tokenizer, max_length=6, batch_size=1)
    expected = [[2, 20, 3], [2, 13, 14, 15, 3], [2, 5, 6, 7, 8, 3], [2, 9, 10, 11, 12, 3]]
    assert [batch["input_ids"].tolist() for batch in batches] == [[row] for row in expected]
    draws = [unlabeled_batches([texts], tokenizer, max_length=6, num_rows=2, seed=seed)[0] for seed in (0, 0, 1, 2, 3)]
    assert all(len(draw["input_ids"]) == 2 for draw in draws)
    found = [draw["input_ids"].tolist() for draw in draws]
    assert found[0] == found[1]
    assert any(rows != found[0] for rows in found)


def test_no_text_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="have no text in any row; name others, or another column"):
        unlabeled_batches([[" ", None]], tokenizer)


def test_rows_are_drawn_once_and_always_the_same():
    rows = Dataset.from_dict({"text": list(map(str, range(50)))})
    found = drawn(rows, 20, seed=1)["text"][:]
    assert len(set(found)) == 20
    assert found == sorted(found, key=int) == drawn(rows, 20, seed=1)["text"][:]
    assert found != drawn(rows, 20, seed=2)["text"][:]
    assert drawn(rows, 50, seed=1)["text"][:] == rows["text"][:]
