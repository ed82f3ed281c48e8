"""verify takes exports of any count of labels, of every architecture."""

import pytest
from tiny_architectures import UNEVEN, plan_of, tiny_architecture_teacher

from homodistil_hf import export_student, verify_export
from homodistil_hf.export.export_folder import FORMATS
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.units import encoder_groups
from homodistil_hf.pruning.compaction import compact
from homodistil_hf.pruning.masks import choose_masks, full_masks

pytestmark = pytest.mark.slow

LABELS = (("sequence_classification", 1, "regression"), ("token_classification", 50, None))
CASES = [("bert", *labels, format) for labels in LABELS for format in FORMATS]
CASES += [
    (name, *labels, "compact")
    for name, architecture in ARCHITECTURES.items()
    for labels in LABELS
    if name != "bert" and labels[0] in [head.kind.name for head in architecture.heads]
]


@pytest.mark.parametrize(("model_type", "kind", "num_labels", "problem_type", "format"), CASES)
def test_an_export_of_any_count_of_labels_is_right(model_type, kind, num_labels, problem_type, format, tmp_path):
    architecture = ARCHITECTURES[model_type]
    (head,) = (head for head in architecture.heads if head.kind.name == kind)
    student = to_student(
        tiny_architecture_teacher(architecture, head, num_labels=num_labels, problem_type=problem_type)
    )
    groups, plan = encoder_groups(student), plan_of(architecture, UNEVEN)
    masks = full_masks(groups)
    scores = {name: mask.float() for name, mask in masks.items()}
    compact(student, groups, choose_masks(scores, masks, plan=plan), plan=plan)
    report = verify_export(export_student(student, tmp_path / format, format))
    assert report.problems == ()
    assert report.max_relative_difference <= 1e-5
