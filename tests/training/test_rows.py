"""The rows of a step are a function of the step and the global batch."""

import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_blocks
from torch.utils.data import DataLoader

from homodistil_hf.training.rows import WholeSteps, first_rows, num_own_rows


@pytest.mark.parametrize(("num_rows", "kept"), [(8, 8), (9, 8), (15, 8), (16, 16)])
def test_rows_too_few_for_a_step_are_left_out(num_rows, kept):
    assert list(WholeSteps(range(num_rows), num_rows=8)) == list(range(kept))
    assert len(WholeSteps(range(num_rows), num_rows=8)) == kept


def test_a_stream_shorter_than_a_step_is_an_error():
    with pytest.raises(ValueError, match="train_dataset is a stream of 7 rows, fewer than the 8 of a step"):
        list(WholeSteps(range(7), num_rows=8))
    # Where several workers load, all but one of them find a single file empty.
    stream = make_blocks(9).to_iterable_dataset()
    loader = DataLoader(WholeSteps(stream, num_rows=8), batch_size=None, num_workers=2)
    assert [row["example_id"] for row in loader] == list(range(8))


def test_a_stream_without_a_length_has_none():
    with pytest.raises(TypeError, match="has no len"):
        len(WholeSteps(iter(range(3)), num_rows=2))


def test_the_pass_reaches_a_stream_that_is_shuffled_by_it():
    stream = make_blocks(16).to_iterable_dataset().shuffle(seed=1, buffer_size=16)
    whole = WholeSteps(stream, num_rows=4)
    orders = []
    for epoch in (0, 1, 0):
        whole.set_epoch(epoch)
        orders.append([row["example_id"] for row in whole])
    assert orders[0] == orders[2] != orders[1]
    WholeSteps(range(4), num_rows=4).set_epoch(1)  # one that isn't is left alone


@given(num_rows=st.integers(1, 60), num_ranks=st.integers(1, 5), batch_size=st.integers(1, 5), micro=st.integers(1, 3))
def test_ranks_of_accelerate_share_whole_steps_without_gap_or_overlap(num_rows, num_ranks, batch_size, micro):
    a_step = num_ranks * batch_size * micro
    if num_rows < a_step:
        return
    shards = [
        list(
            IterableDatasetShard(
                WholeSteps(range(num_rows), num_rows=a_step),
                batch_size=batch_size,
                num_processes=num_ranks,
                process_index=rank,
            )
        )
        for rank in range(num_ranks)
    ]
    batches = [[shard[i : i + batch_size] for i in range(0, len(shard), batch_size)] for shard in shards]
    in_order = [
        row for batches_of_a_round in zip(*batches, strict=True) for batch in batches_of_a_round for row in batch
    ]
    assert in_order == list(range(num_rows // a_step * a_step))


@given(num_total=st.integers(1, 100), num_ranks=st.integers(1, 6), batch_size=st.integers(1, 7))
def test_own_rows_of_all_ranks_are_the_rows_that_are_left(num_total, num_ranks, batch_size):
    own = [num_own_rows(num_total, batch_size=batch_size, rank=r, num_ranks=num_ranks) for r in range(num_ranks)]
    a_round = batch_size * num_ranks
    assert sum(own) == (num_total - 1) % a_round + 1
    assert own == sorted(own, reverse=True)
    assert max(own) <= batch_size


def test_first_rows_of_a_batch_with_masked_positions():
    batch = {"input_ids": torch.arange(12).view(3, 4), "masked_positions": torch.tensor([1, 6, 7, 8, 11])}
    rows = first_rows(batch, 2)
    assert rows["input_ids"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert rows["masked_positions"].tolist() == [1, 6, 7]
    assert first_rows({"input_ids": torch.ones(3, 4)}, 5)["input_ids"].shape == (3, 4)
