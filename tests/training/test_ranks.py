"""What is refused before ranks do anything together; ranks that run: `test_distributed.py`."""

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from tiny_models import make_blocks, make_teacher
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, init_device_mesh

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.training.ranks import check_whole_model, leave_process_group, on_every_rank

DDP = "use DDP .torchrun or accelerate launch.: pruning needs whole parameters on every rank"


@pytest.mark.parametrize("kind", ["DEEPSPEED", "FSDP", "MEGATRON_LM", "XLA"])
def test_launches_other_than_ddp_are_refused(make_trainer, kind):
    trainer = make_trainer()
    trainer.args.distributed_state = SimpleNamespace(distributed_type=DistributedType[kind])
    with pytest.raises(ValueError, match=f"^distributed_type={kind} is not supported by .*; {DDP}"):
        HomoDistilTrainer(make_teacher(), trainer.args, train_dataset=make_blocks())


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


def test_streams_are_evaluated_by_one_rank_only(make_trainer, monkeypatch):
    stream = make_blocks(10, seed=1).to_iterable_dataset()
    trainer = make_trainer(eval_dataset=stream, max_steps=1)
    assert trainer.evaluate()["eval_kl"] == make_trainer(eval_dataset=make_blocks(10, seed=1)).evaluate()["eval_kl"]
    monkeypatch.setattr(type(trainer.args), "world_size", property(lambda _: 2))
    with pytest.raises(ValueError, match=r"evaluate on can't be shared evenly by 2 ranks; make it a table"):
        trainer.get_eval_dataloader()


@pytest.mark.slow
def test_going_on_with_another_global_batch_is_told(make_trainer, tmp_path, caplog):
    make_trainer(max_steps=4, save_strategy="steps", save_steps=2).train()
    other = make_trainer(max_steps=4, per_device_train_batch_size=4, output_dir=str(tmp_path / "other"))
    with caplog.at_level(logging.WARNING, logger="homodistil_hf"):
        other.train(str(tmp_path / "run" / "checkpoint-2"))
    assert "resumed with rows_per_step=4, the checkpoint has 8: the run will differ" in caplog.text
    caplog.clear()
    same = make_trainer(
        max_steps=4,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        output_dir=str(tmp_path / "same"),
    )
    same.train(str(tmp_path / "run" / "checkpoint-2"))
    assert "rows_per_step" not in caplog.text


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


def test_leaving_without_a_process_group():
    leave_process_group()
