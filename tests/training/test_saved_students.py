"""A saved student in its stock class, without this package: its logits, or an error; and resumed, the same run."""

import pytest
import torch
from method_students import SAME_HEADS
from run_traces import SaveAt
from safetensors.torch import save_file
from students import logits_of
from tiny_architectures import rows_for, tiny_architecture_teacher

from homodistil_hf import export_student
from homodistil_hf.export.facts import probe_inputs
from homodistil_hf.export.verify import run_fresh
from homodistil_hf.files.checkpoints import QUERIES_FILE
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.conversion import as_stock_reads_it

pytestmark = pytest.mark.slow

NARROW_ATTENTION = {"hidden_size": 24, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32}
UNEVEN_FFN = {
    "hidden_size": 16,
    "layers": [{"num_attention_heads": 2, "head_dim": 8, "intermediate_size": size} for size in (32, 24)],
}
_OTHER_SHAPES = {"narrow attention": NARROW_ATTENTION, "uneven FFN": UNEVEN_FFN}
_LOAD = """
import sys
import torch, transformers
from safetensors.torch import load_file, save_file
names, folders, inputs, outputs = sys.argv[1:]
found = {}
for index, folder in enumerate(folders.split(",")):
    try:
        model = getattr(transformers, names).from_pretrained(folder)
        with torch.no_grad():
            found[str(index)] = model(**load_file(inputs)).logits
    except (RuntimeError, ValueError, AttributeError):
        pass
save_file(found, outputs)
print(0)
"""


def in_stock_class(folders, class_name, inputs, scratch) -> dict[int, torch.Tensor]:
    """Position of a folder → logits of the class of transformers, in a process without this package, if it loads."""
    save_file(inputs, scratch / "inputs")
    _, found = run_fresh(_LOAD, [class_name, ",".join(map(str, folders)), scratch / "inputs"])
    return {int(name): logits for name, logits in found.items()}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_stock_class_gives_the_students_logits_or_no_model(model_type, trained, tmp_path):
    architecture = ARCHITECTURES[model_type]
    teacher, head = tiny_architecture_teacher(architecture, architecture.heads[0]), architecture.heads[0]
    # Widths of a stock class, with heads of half the teacher's size where there may be such.
    heads = {"num_attention_heads": 2, "head_dim": 8} if architecture.is_rotary else {}
    students = {"heads that fill": SAME_HEADS | heads} | _OTHER_SHAPES
    if architecture.has_free_heads:
        students |= {"narrow heads": NARROW_ATTENTION | {"head_dim": 4}}
    folders, expected, inputs = [], [], probe_inputs(teacher.config)
    for name, student in students.items():
        run = tmp_path / name
        trainer = trained(
            model=teacher,
            student=student,
            max_steps=1,
            output_dir=str(run),
            callbacks=[SaveAt(1)],
            width_multiple=4,
            **rows_for(head),
        )
        assert trainer.kept == trainer.plan
        trainer.save_model(str(run / "saved"))
        compact = export_student(trainer.model, run / "compact", "compact")
        folders += [run / "saved", run / "checkpoint-1", compact]
        expected.append(logits_of(trainer.model, inputs))
    found = in_stock_class(folders, head.stock_name, inputs, tmp_path)
    # three folders a student: the first student's, and the second's and fourth's where heads are free
    assert set(found) == ({0, 1, 2, 3, 4, 5, 9, 10, 11} if architecture.has_free_heads else {0, 1, 2})
    for index, logits in found.items():
        torch.testing.assert_close(logits, expected[index // 3], rtol=1e-5, atol=1e-5)
    # of the student's scale: queries of most, and the table of words that Gemma multiplies
    is_scaled = not architecture.is_rotary or hasattr(trainer.model.config, "scale_hidden_size")
    assert (folders[1] / QUERIES_FILE).is_file() is is_scaled


def test_a_student_is_to_the_last_bit_what_it_was_before_it_was_saved(trained, tmp_path):
    trainer = trained(student=SAME_HEADS, max_steps=1)
    model = trainer.model
    before, config = {name: values.clone() for name, values in model.state_dict().items()}, model.config.to_dict()
    with as_stock_reads_it(model) as exact:
        differing = {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}
        assert differing == exact.keys() == {name for name in before if ".query." in name}
        assert (model.config.softmax_head_dim, config["softmax_head_dim"]) == (4, 8)
    assert model.config.to_dict() == config
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
