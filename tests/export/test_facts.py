"""Facts of a run and of an export that is written again: what is refused, what stays true of another format."""

import pytest
from tiny_models import UNEVEN, UNIFORM, random_student

from homodistil_hf.export.export_folder import convert_export, export_student
from homodistil_hf.export.facts import read_facts, run_facts
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForMaskedLM

pytestmark = pytest.mark.slow


def test_sections_that_no_run_has_are_refused():
    with pytest.raises(ValueError, match="unknown section 'setting'; .*nearest valid: 'settings'"):
        run_facts({"setting": {}})


@pytest.mark.parametrize("is_padded", [True, False])
def test_times_of_other_widths_are_left_behind(tmp_path, is_padded):
    """A stock class has zeros where layers differ, so it takes another time than the compact form."""
    student = random_student(HomoBertForMaskedLM, UNEVEN if is_padded else UNIFORM)
    first = export_student(student, tmp_path / "a", facts={"latency": {"teacher_ms": 2.0, "student_ms": 1.0}})
    assert "latency" in read_facts(convert_export(first, tmp_path / "b", "standard"))
    assert ("latency" in read_facts(convert_export(first, tmp_path / "c", "compact"))) is not is_padded
