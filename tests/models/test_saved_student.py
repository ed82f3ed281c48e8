"""What a checkpoint holds of the student comes back exactly, into a student of any other widths."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from rows import each
from run_traces import differences
from safetensors.torch import load_file, save_file
from students import FULL, UNEVEN, UNIFORM, make_student, sliced, write_checkpoint

from homodistil_hf.files.checkpoints import PROJECTIONS_FILE, STATE_FILE
from homodistil_hf.files.tensors import WEIGHTS_FILE
from homodistil_hf.models.saved_student import (
    load_student,
    read_state,
)
from homodistil_hf.models.units import encoder_groups
from homodistil_hf.models.widths import widths_of
from homodistil_hf.pruning.pruner import Pruner


@pytest.fixture
def pruned(tmp_path):
    """The checkpoint of a student that has some units less, and that student."""
    student = make_student()
    pruner = Pruner(student, UNIFORM)
    pruner.prune_to(UNEVEN)
    return write_checkpoint(tmp_path / "checkpoint-1", pruner), student


@pytest.mark.slow
@pytest.mark.parametrize("plan", [FULL, UNIFORM], ids=["wider", "narrower"])
def test_round_trip_into_a_student_of_other_widths(pruned, plan):
    folder, student = pruned
    other = make_student(init="identity")
    if plan != FULL:
        sliced(other, plan, seed=5)
    load_student(folder, other)
    assert differences(other.state_dict(), student.state_dict()) == []
    assert widths_of(other.config) == UNEVEN
    # weights are tied again
    assert other.cls.predictions.decoder.weight is other.bert.embeddings.word_embeddings.weight
    assert other.cls.predictions.decoder.bias is other.cls.predictions.bias
    assert {name: group.num_units for name, group in encoder_groups(other).items()} == {
        name: group.num_units for name, group in encoder_groups(student).items()
    }


def test_a_loaded_student_lies_in_memory_as_a_new_one(pruned):
    """Products of matrices round by the place of their operands; and a file may change behind its tensors."""
    folder, student = pruned
    for name in (WEIGHTS_FILE, PROJECTIONS_FILE):
        content = (folder / name).read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + length].rstrip()
        header += b" " * ((4 - len(header)) % 16)  # tensors 12 bytes behind a multiple of 16
        (folder / name).write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    other = make_student(init="identity")
    load_student(folder, other)
    assert {parameter.data_ptr() % 64 for parameter in other.parameters()} == {0}
    for name in (WEIGHTS_FILE, PROJECTIONS_FILE):
        with (folder / name).open("r+b") as file:
            file.seek(-1000, 2)
            file.write(bytes(1000))
    assert differences(other.state_dict(), student.state_dict()) == []


def test_widths_grow_back_and_the_optimizer_follows(tmp_path):
    student = make_student()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    folder = write_checkpoint(tmp_path, Pruner(student, UNIFORM))
    optimizer = torch.optim.AdamW(student.parameters())
    student(torch.ones(2, 4, dtype=torch.int64)).logits.sum().backward()
    optimizer.step()
    Pruner(student, UNIFORM).prune_to(UNIFORM, optimizer=optimizer)
    load_student(folder, student, optimizer=optimizer)
    after = student.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert widths_of(student.config) == FULL
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in student.parameters()]
    assert not optimizer.state


@pytest.mark.parametrize("name", ["embedding", "hidden"])
def test_other_projections_are_refused(pruned, name):
    other = make_student()
    delattr(other.projections, name)
    with pytest.raises(ValueError, match=rf"lacks nothing and has unknown \['projections.{name}.*loss weights of the"):
        load_student(pruned[0], other)


def test_a_missing_parameter_is_named(pruned):
    path = pruned[0] / WEIGHTS_FILE
    weights = load_file(path)
    del weights["cls.predictions.transform.dense.bias"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks \['cls.predictions.transform.dense.bias'\] and has unknown nothing"):
        load_student(pruned[0], make_student())


PRUNER = {"settings": {}, "plan_reached": True}
NO_RUN = "pruning_state.json in folder=.* holds a state that no run writes; take"


@each(
    ("changes", "message"),
    [
        ({"method": None}, NO_RUN),
        ({"student": 5}, NO_RUN),
        ({"is_finished": 1}, NO_RUN),
        ({"kept_heads": {}}, NO_RUN),
        ({"pruner": []}, NO_RUN),
        ({"pruner": {"settings": {}}}, NO_RUN),
        ({"pruner": PRUNER | {"plan_reached": "yes"}}, NO_RUN),
        ({"pruner": PRUNER | {"gates": 0}}, NO_RUN),
        ({"pruner": PRUNER | {"gates": {"value": 0.5}}}, NO_RUN),
        ({"pruner": PRUNER | {"gates": {"kept": [0], "value": "half"}}}, NO_RUN),
    ],
)
def test_a_state_that_no_run_writes_is_refused(pruned, changes, message, tmp_path):
    path = Path(shutil.copy(pruned[0] / STATE_FILE, tmp_path))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        read_state(tmp_path)


def test_a_folder_that_is_no_checkpoint_is_named(pruned):
    with pytest.raises(ValueError, match="has no pruning_state.json; expected a checkpoint-N of a distillation run"):
        read_state(pruned[0].parent)
