"""Facts of a run and of an export that is written again: what is refused, what stays true of another format."""

import json

import pytest
from rows import each
from tiny_models import UNEVEN, UNIFORM, make_teacher, random_student

from homodistil_hf.export.export_folder import convert_export, export_student
from homodistil_hf.export.facts import read_facts, run_facts
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForMaskedLM

pytestmark = pytest.mark.slow


@each(
    ("facts", "message"),
    [
        ({"setting": {}}, "unknown section 'setting'; .*nearest valid: 'settings'"),
        ({"training": 3}, r"facts\['training'\]=3 is no mapping"),
        ({"card": {"student": "Student"}}, r"facts\['card'\]=.* expected what a method's card says: "),
    ],
)
def test_sections_that_no_run_has_are_refused(facts, message):
    with pytest.raises(ValueError, match=message):
        run_facts(facts)


@pytest.mark.parametrize("is_padded", [True, False])
def test_times_of_other_widths_are_left_behind(tmp_path, is_padded):
    """A stock class has zeros where layers differ, so it takes another time than the compact form."""
    student = random_student(HomoBertForMaskedLM, UNEVEN if is_padded else UNIFORM)
    first = export_student(student, tmp_path / "a", facts={"latency": {"teacher_ms": 2.0, "student_ms": 1.0}})
    assert "latency" in read_facts(convert_export(first, tmp_path / "b", "standard"))
    assert ("latency" in read_facts(convert_export(first, tmp_path / "c", "compact"))) is not is_padded


@each(
    ("section", "values"),
    [
        ("data", {"held_out": 3}),
        ("data", {"train": [1]}),
        ("data", {"kind": ["classes"]}),
        ("teacher", {"language": 5}),
        ("benchmarks", {"tasks": 3}),
        ("benchmarks", {"tasks": {"rte": {}}}),
        ("benchmarks", {"discrepancy": {"eval_data": [3]}}),
    ],
)
def test_facts_that_no_card_can_name_are_refused(tmp_path, section, values):
    folder = export_student(random_student(HomoBertForMaskedLM), tmp_path / "a", teacher=make_teacher())
    facts = read_facts(folder)
    (folder / "facts.json").write_text(json.dumps(facts | {section: facts.get(section, {}) | values}))
    with pytest.raises(ValueError, match=f"has {section}=.*, which no export has; export again"):
        convert_export(folder, tmp_path / "b", "compact")
