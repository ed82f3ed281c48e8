"""What is refused before ranks do anything together; ranks that run: `test_distributed.py`."""

import logging
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from datasets import IterableDataset
from distributed_runs import RecordingCollator
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each
from run_traces import losses_of
from tiny_models import GRADUAL, make_blocks, make_teacher
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, init_device_mesh
from torch.utils.data import DataLoader, Sampler

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments
from homodistil_hf.data.shards import num_lanes_of
from homodistil_hf.training.evaluation_loop import num_own_rows
from homodistil_hf.training.ranks import check_whole_model, on_every_rank
from homodistil_hf.training.streams import DealtShards, WholeBatches


def test_several_gpus_in_one_process_are_refused(make_trainer, monkeypatch):
    monkeypatch.setattr(HomoDistilTrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match="2 GPUs in one process would use DataParallel, .*; launch with torchrun"):
        make_trainer()


def test_models_in_shards_or_on_several_devices_are_refused(make_trainer):
    teacher = make_teacher()
    check_whole_model("model", teacher)
    teacher.bert.encoder.layer[1].to("meta")
    with pytest.raises(ValueError, match=r"^model is spread over cpu, meta \(device_map\); load it whole, and launch"):
        make_trainer(model=teacher)
    with pytest.raises(ValueError, match=r"^teacher is spread over cpu, meta \(device_map\); load it whole"):
        make_trainer(teacher_model=teacher)


def test_models_in_shards_are_refused():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        model = nn.Linear(2, 3)
        model.weight = nn.Parameter(DTensor.from_local(model.weight.detach(), mesh, [Replicate()]))
        with pytest.raises(ValueError, match="^model has 1 parameters that are shards, e.g. 'weight'; load it whole"):
            check_whole_model("model", model)
    finally:
        torch.distributed.destroy_process_group()


def test_a_check_that_passes_gives_its_result():
    assert on_every_rank(lambda: 3) == 3
    with pytest.raises(OSError, match="disk"):
        on_every_rank(lambda: Path("/no/such/disk").read_text())


@pytest.mark.slow
def test_going_on_with_another_global_batch_is_told(make_trainer, tmp_path, caplog):
    make_trainer(max_steps=4, save_strategy="steps", save_steps=2).train()
    for accumulation, is_told in ((1, True), (2, False)):
        caplog.clear()
        settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": accumulation}
        other = make_trainer(max_steps=4, output_dir=str(tmp_path / f"other{accumulation}"), **settings)
        with caplog.at_level(logging.WARNING, logger="homodistil_hf"):
            other.train(str(tmp_path / "run" / "checkpoint-2"))
        assert ("resumed with rows_per_step=4, the checkpoint has 8: the run will differ" in caplog.text) is is_told
        assert ("rows_per_step" in caplog.text) is is_told


LEAVING = """
import os
import torch
from pathlib import Path
import homodistil_hf.training_args  # as every run has it, before there is a process group
from homodistil_hf.training.ranks import leave_process_group

def threads():
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]

torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
layer = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
layer.itself = [layer]
if not any("gloo" in name for name in threads()):
    raise SystemExit(77)
del layer
leave_process_group()
assert not any("gloo" in name for name in threads()), threads()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="names of threads are read from Linux's /proc")
def test_a_process_group_leaves_no_thread_behind():
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(f"torch {torch.__version__} gives the threads of a process group no names")
    assert done.returncode == 0, done.stderr


@each(("num_rows", "kept"), [(7, 0), (8, 8), (9, 8), (15, 8), (16, 16)])
def test_rows_too_few_for_a_micro_batch_are_left_out(num_rows, kept):
    assert list(WholeBatches(range(num_rows), num_rows=8)) == list(range(kept))
    assert len(WholeBatches(range(num_rows), num_rows=8)) == kept
    with pytest.raises(TypeError, match="has no len"):
        len(WholeBatches(iter(range(num_rows)), num_rows=8))


def test_the_pass_reaches_a_stream_that_is_shuffled_by_it():
    stream = make_blocks(16).to_iterable_dataset().shuffle(seed=1, buffer_size=16)
    whole = WholeBatches(stream, num_rows=4)
    orders = []
    for epoch in (0, 1, 0):
        whole.set_epoch(epoch)
        orders.append([row["example_id"] for row in whole])
    assert orders[0] == orders[2] != orders[1]
    WholeBatches(range(4), num_rows=4).set_epoch(1)  # one that isn't is left alone


@given(num_rows=st.integers(1, 60), num_ranks=st.integers(1, 5), batch_size=st.integers(1, 5))
def test_ranks_of_accelerate_share_whole_batches_without_gap_or_overlap(num_rows, num_ranks, batch_size):
    of_all = num_ranks * batch_size
    settings = {"batch_size": batch_size, "num_processes": num_ranks}
    whole = WholeBatches(range(num_rows), num_rows=of_all)
    shards = [list(IterableDatasetShard(whole, **settings, process_index=rank)) for rank in range(num_ranks)]
    batches = [[shard[i : i + batch_size] for i in range(0, len(shard), batch_size)] for shard in shards]
    in_order = [row for batches_of_a_round in zip(*batches, strict=True) for row in chain(*batches_of_a_round)]
    assert in_order == list(range(num_rows // of_all * of_all))


class Shards:
    """A stream of numbered rows in shards that notes which of them are read."""

    def __init__(self, num_shards, *, rows_each):
        self.read, self.rows_each = set(), rows_each
        self.stream = IterableDataset.from_generator(self.rows, gen_kwargs={"shards": list(range(num_shards))})

    def rows(self, shards):
        for shard in shards:
            self.read.add(shard)
            yield from ({"row": 1000 * shard + row} for row in range(self.rows_each))

    def of_rank(self, rank, num_ranks, batch_size, rows_per_step, num_workers=0):
        """Rows of a rank, one micro-batch after another, through accelerate's share and torch's loader."""
        how = {"rows_per_step": rows_per_step, "batch_size": batch_size, "rank": rank, "num_ranks": num_ranks}
        share = {"batch_size": batch_size, "num_processes": num_ranks, "process_index": rank}
        rows = IterableDatasetShard(DealtShards(self.stream, **how), **share) if num_ranks > 1 else None
        rows = DealtShards(self.stream, **how) if rows is None else rows
        loader = DataLoader(rows, batch_size=batch_size, num_workers=num_workers, collate_fn=list)
        return [[row["row"] for row in batch] for batch in loader]


@settings(max_examples=20)
@given(powers=st.tuples(*[st.integers(0, 2)] * 3), num_shards=st.integers(16, 40))
def test_ranks_read_shards_of_their_own_and_the_rows_of_one_process(powers, num_shards):
    num_ranks, accumulation, batch_size = (2**power for power in powers)
    rows_per_step = num_ranks * accumulation * batch_size * 2
    shards = Shards(num_shards, rows_each=8)
    whole = list(chain(*shards.of_rank(0, 1, rows_per_step, rows_per_step)))
    found, read = [], []
    for rank in range(num_ranks):
        shards.read.clear()
        found.append(shards.of_rank(rank, num_ranks, 2 * batch_size, rows_per_step))
        read.append({*shards.read})
    rounds = min(map(len, found)) // accumulation * accumulation  # as ranks agree on the last step
    in_order = [row for batches in zip(*(one[:rounds] for one in found), strict=True) for row in chain(*batches)]
    assert in_order == whole
    num_lanes = num_lanes_of(shards.stream, rows_per_step)
    if num_lanes % (num_ranks * accumulation) == 0:
        assert len(set().union(*read)) == sum(map(len, read))


def test_loader_workers_read_shards_of_their_own():
    shards = Shards(64, rows_each=4)
    first, second = (list(chain(*shards.of_rank(rank, 2, 2, 8, num_workers=2))) for rank in (0, 1))
    assert [len({*rows}) for rows in (first, second)] == [len(first), len(second)]
    # two workers make steps of two: of eight micro-batches, each of a lane, every other is the second rank's
    assert [{row // 1000 % 8 for row in rows} for rows in (first, second)] == [{0, 2, 4, 6}, {1, 3, 5, 7}]
    assert len(first) == len(second) == 64 // 2 * 4


@given(num_total=st.integers(1, 100), num_ranks=st.integers(1, 6), batch_size=st.integers(1, 7))
def test_own_rows_of_all_ranks_are_the_rows_that_are_left(num_total, num_ranks, batch_size):
    own = [num_own_rows(num_total, batch_size=batch_size, rank=r, num_ranks=num_ranks) for r in range(num_ranks)]
    a_round = batch_size * num_ranks
    assert sum(own) == (num_total - 1) % a_round + 1
    assert own == sorted(own, reverse=True)
    assert max(own) <= batch_size


# In runs


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"train_dataset": make_blocks(7).to_iterable_dataset()},
        {"train_dataset": make_blocks(16).to_iterable_dataset(num_shards=2), "dataloader_num_workers": 2}
        | {"per_device_train_batch_size": 16},
        {"train_dataset": make_blocks(7)},
        {"train_dataset": make_blocks(12), "gradient_accumulation_steps": 2},
        {"train_dataset": make_blocks(7), "max_steps": -1, "num_train_epochs": 1},
    ],
)
def test_data_too_few_for_one_step_are_an_error(make_trainer, settings):
    trainer = make_trainer(**{"max_steps": 2} | settings)
    with pytest.raises(ValueError, match=r"fewer rows than .* step .*give more rows.* a smaller batch"):
        trainer.train()


class EverySecond(Sampler):
    """Rows 1, 3, 5, …: half as many as the table has."""

    def __init__(self, rows):
        self.indices = range(1, len(rows), 2)

    def __iter__(self):
        return iter(self.indices)

    def __len__(self):
        return len(self.indices)


class TwiceEach(EverySecond):
    """Rows 0, 0, 1, 1, …: twice as many as the table has."""

    def __init__(self, rows):
        self.indices = [index // 2 for index in range(2 * len(rows))]


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "steps_a_pass"), [(EverySecond, 4), (TwiceEach, 17)])
def test_a_sampler_of_the_users_own_loses_no_row_of_a_whole_step(trained, sampler, steps_a_pass):
    class Sampled(HomoDistilTrainer):
        def _get_train_sampler(self, dataset=None):
            return sampler(dataset or self.train_dataset)

    rows, collator = make_blocks(70), RecordingCollator()
    settings = {"train_dataset": rows, "data_collator": collator, "max_steps": -1, "num_train_epochs": 2}
    trainer = trained(trainer_class=Sampled, **GRADUAL | settings)
    assert trainer.state.global_step == trainer.state.max_steps == 2 * steps_a_pass
    assert trainer.state.epoch == 2.0
    a_pass = list(sampler(rows))[: 8 * steps_a_pass]
    assert list(chain.from_iterable(collator.rows)) == a_pass * 2


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"max_steps": -1, "num_train_epochs": 3}, {"max_steps": 7}])
def test_passes_have_whole_steps_however_they_are_cut_up(make_trainer, settings):
    """21 rows: two steps of 8 a pass, and 5 rows that wait for another shuffle."""
    settings = (
        GRADUAL | {"train_dataset": make_blocks(21), "student_dropout": 0.0, "pruning_interval_steps": 1} | settings
    )
    whole = make_trainer(per_device_train_batch_size=8, **settings)
    parts = make_trainer(per_device_train_batch_size=1, gradient_accumulation_steps=8, **settings)
    metrics = whole.train().metrics
    parts.train()
    assert metrics["train_samples_per_second"] == pytest.approx(8 * metrics["train_steps_per_second"], rel=0.01)
    assert whole.state.global_step == parts.state.global_step == max(6, settings["max_steps"])
    assert whole.state.epoch == parts.state.epoch == whole.state.global_step / 2
    for one, other in zip(losses_of(whole), losses_of(parts), strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_a_batch_outside_a_step_is_averaged_over_itself(make_trainer):
    settings = {"max_steps": 4, "mlm_weight": 1.0, "gradient_accumulation_steps": 2, "projection_init": "random"}
    trained, fresh = make_trainer(**settings), make_trainer(**settings)
    trained.train()
    batch = trained.data_collator(list(make_blocks(3, seed=5)))
    for trainer in (trained, fresh):
        trainer.model.eval()
        with torch.no_grad():
            loss = trainer.compute_loss(trainer.model, dict(batch))
            terms, _ = trainer.distillation.terms(trainer.model, batch, trainer.count(batch))
            expected = torch.nn.functional.cross_entropy(
                type(trainer.model).forward(trainer.model, input_ids=batch["input_ids"]).logits.flatten(0, 1),
                batch["labels"].flatten(),
            )
        assert terms["mlm"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert loss.item() == pytest.approx(trainer.distillation.total(terms).item(), rel=1e-5)
