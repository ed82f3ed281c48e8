"""Training from a stream: the rows of a table in order, read several times, resumed in between."""

from typing import Any

import pytest
from datasets import Dataset
from run_traces import SaveAt, assert_same_run, differences, losses_of
from tiny_models import make_blocks

from homodistil_hf import HomoDistilTrainer


def streamed(dataset: Dataset) -> Any:
    return dataset.to_iterable_dataset()


@pytest.mark.slow
def test_a_stream_equals_the_same_rows_in_order(make_trainer):
    rows = make_blocks(24)
    stream = make_trainer(max_steps=8, train_dataset=streamed(rows))
    table = make_trainer(max_steps=8, train_dataset=rows, train_sampling_strategy="sequential")
    stream.train()
    table.train()
    assert losses_of(stream) == losses_of(table)
    assert differences(stream.pruner.state_tensors(), table.pruner.state_tensors()) == []


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_stream_that_is_read_several_times_resumes_exactly(make_trainer, tmp_path, step, accumulation):
    def trainer(output_dir: str) -> HomoDistilTrainer:
        stream = streamed(make_blocks(28)).shuffle(seed=5, buffer_size=10)
        return make_trainer(
            output_dir=str(tmp_path / output_dir),
            max_steps=8,
            train_dataset=stream,
            gradient_accumulation_steps=accumulation,
            per_device_train_batch_size=8 // accumulation,
            student_dropout=0.1,
            callbacks=[SaveAt(step)],
        )

    whole, resumed = trainer("run"), trainer("resumed")
    whole.train()
    resumed.train(str(tmp_path / "run" / f"checkpoint-{step}"))
    assert_same_run(resumed, whole)


@pytest.mark.slow
def test_micro_batches_left_at_the_end_of_a_stream_are_dropped(make_trainer):
    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    ragged = make_trainer(train_dataset=streamed(make_blocks(20)), **settings)
    even = make_trainer(train_dataset=streamed(make_blocks(16)), **settings)
    ragged.train()
    even.train()
    assert losses_of(ragged) == losses_of(even)


@pytest.mark.parametrize("is_stream", [True, False])
def test_other_workers_of_a_stream_are_told_at_a_resume(make_trainer, tmp_path, caplog, is_stream):
    rows = streamed(make_blocks(32)).shuffle(seed=5, buffer_size=10) if is_stream else make_blocks(32)
    settings = {"train_dataset": rows, "max_steps": 3}
    make_trainer(callbacks=[SaveAt(2)], **settings).train()
    resumed = make_trainer(output_dir=str(tmp_path / "resumed"), dataloader_num_workers=1, **settings)
    resumed.train(str(tmp_path / "run" / "checkpoint-2"))
    assert ("resumed with dataloader_num_workers=1, the checkpoint has 0" in caplog.text) is is_stream
