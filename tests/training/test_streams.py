"""Training from a stream: the rows of a table in order. That it is resumed exactly: `test_resuming.py`."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from datasets import Dataset
from run_traces import OnStep, SaveAt, differences, losses_of
from tiny_models import make_blocks
from torch.utils.data import IterableDataset

from homodistil_hf.files.checkpoints import write_manifest

pytestmark = pytest.mark.slow


def streamed(dataset: Dataset) -> Any:
    return dataset.to_iterable_dataset()


def test_a_stream_equals_the_same_rows_in_order(trained):
    rows = make_blocks(24)
    stream = trained(max_steps=8, train_dataset=streamed(rows))
    table = trained(max_steps=8, train_dataset=rows, train_sampling_strategy="sequential")
    assert losses_of(stream) == losses_of(table)
    assert differences(stream.pruner.state_tensors(), table.pruner.state_tensors()) == []


def test_micro_batches_left_at_the_end_of_a_stream_are_dropped(trained):
    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    ragged = trained(train_dataset=streamed(make_blocks(20)), **settings)
    even = trained(train_dataset=streamed(make_blocks(16)), **settings)
    assert losses_of(ragged) == losses_of(even)


@pytest.mark.parametrize("is_stream", [True, False])
def test_other_workers_of_a_stream_are_told_at_a_resume(make_trainer, tmp_path, caplog, is_stream):
    rows = streamed(make_blocks(32)).shuffle(seed=5, buffer_size=10) if is_stream else make_blocks(32)
    settings = {"train_dataset": rows, "max_steps": 3}
    make_trainer(callbacks=[SaveAt(2)], **settings).train()
    resumed = make_trainer(output_dir=str(tmp_path / "resumed"), dataloader_num_workers=1, **settings)
    resumed.train(str(tmp_path / "run" / "checkpoint-2"))
    assert ("resumed with dataloader_num_workers=1, the checkpoint has 0" in caplog.text) is is_stream


class Undivided(IterableDataset):
    """A stream of torch's kind, which each worker reads from its first row to its last."""

    def __iter__(self) -> Iterator[Any]:
        yield from make_blocks(16)


@pytest.mark.parametrize(
    ("name", "words"), [("train_dataset", "train_dataset"), ("eval_dataset", "the data set to evaluate on")]
)
def test_a_stream_that_workers_may_repeat_is_warned_of(make_trainer, caplog, name, words):
    def load(stream, num_workers):
        trainer = make_trainer(dataloader_num_workers=num_workers, **{name: stream})
        (trainer.get_train_dataloader if name == "train_dataset" else trainer.get_eval_dataloader)()

    for stream, num_workers in ((Undivided(), 1), (streamed(make_blocks(16)), 2)):
        load(stream, num_workers)
    assert "each worker reads" not in caplog.text
    load(Undivided(), 2)
    assert f"dataloader_num_workers=2: each worker reads all rows of {words}, a Undivided, unless" in caplog.text


class Counted(IterableDataset):
    """Rows of a stream, and which were read."""

    def __init__(self, num_rows: int):
        self.rows, self.read = make_blocks(num_rows), []

    def __iter__(self) -> Iterator[Any]:
        for number, row in enumerate(self.rows):
            self.read.append(number)
            yield row


@pytest.mark.parametrize(("stop", "is_older"), [(2, False), (4, False), (2, True)])
def test_a_run_of_a_stream_goes_on_at_the_next_row(make_trainer, tmp_path, stop, is_older):
    """Also a longer one, in the second pass, and of an older checkpoint; a pass is 3 steps of 8 rows."""
    settings = {"per_device_train_batch_size": 8, "num_scoring_batches": 1}
    make_trainer(train_dataset=Counted(24), max_steps=4, callbacks=[SaveAt(stop)], **settings).train()
    folder, num_steps = tmp_path / "run" / f"checkpoint-{stop}", 4 if is_older else 7
    if is_older:
        state = json.loads((folder / "pruning_state.json").read_text())
        del state["in_stream"]
        (folder / "pruning_state.json").write_text(json.dumps(state))
        write_manifest(folder)
    stream = Counted(24)
    longer = make_trainer(train_dataset=stream, max_steps=num_steps, output_dir=str(tmp_path / "longer"), **settings)
    seen = []
    longer.add_callback(OnStep(lambda step: seen.append(longer.place)))
    stream.read.clear()  # its first rows are checked
    longer.train(str(folder))
    assert seen == [((step - 1) // 3, (step - 1) % 3 + 1) for step in range(stop + 1, num_steps + 1)]
    rows = [*range(24)] * ((num_steps - 1) // 3 + 1 - stop // 3)  # from the first of the pass that it stands in
    assert stream.read == rows[: len(stream.read)]
    assert len(stream.read) >= len(rows) - 16


def test_a_stream_is_asked_once_after_its_end(make_trainer, monkeypatch):
    """Trainer would ask for as many steps as a run has, in each pass."""
    trainer, asked = make_trainer(train_dataset=streamed(make_blocks(16)), max_steps=8), []
    fetch = trainer.get_batch_samples
    monkeypatch.setattr(trainer, "get_batch_samples", lambda *given: asked.append(found := fetch(*given)) or found)
    trainer.train()
    assert trainer.state.global_step == 8
    num_empty = sum(not batches for batches, _ in asked)
    assert 0 < num_empty < len(asked) - num_empty


@pytest.mark.parametrize("num_shards", [2, 16])
def test_a_pass_over_a_stream_is_counted_by_its_loader_alone(make_trainer, num_shards):
    """Ranks that were forked after a stream was made share its number of the pass."""
    stream = make_blocks(32).to_iterable_dataset(num_shards).shuffle(seed=5, buffer_size=2)
    loader = make_trainer(train_dataset=stream).get_train_dataloader()
    passes = []
    for number in (0, 1):
        loader.set_epoch(number)
        passes.append([row for batch in loader for row in batch["input_ids"].tolist()])
    assert stream.epoch == 0
    assert passes[0] != passes[1]
    assert sorted(passes[0]) == sorted(passes[1])
