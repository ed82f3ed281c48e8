"""What lies in a folder is told alike to all who ask: exporting, pushing, evaluating."""

import json

import pytest
from students import make_teacher

from homodistil_hf.export.export_folder import export_student
from homodistil_hf.export.student_in_folder import SETTINGS_FILE, StudentIn, exported_student, student_in


@pytest.fixture
def run(tmp_path):
    """A finished run: an export in `student/`, and what was asked for."""
    facts = {"training": {"method": "homodistil"}}
    export_student(make_teacher(), tmp_path / "run" / "student", teacher=make_teacher(), facts=facts)
    (tmp_path / "run" / SETTINGS_FILE).write_text(json.dumps({"teacher": "somebody/a-bert"}))
    return tmp_path / "run"


def test_a_run_stands_for_its_export(run):
    for folder in (run, run / "student", str(run)):
        found = student_in(folder)
        assert found == StudentIn("export", run / "student")
        assert found.settings == {"teacher": "somebody/a-bert"}
        assert found.teacher == "somebody/a-bert"
        assert exported_student(folder) == run / "student"


def test_a_checkpoint_belongs_to_the_run_around_it(make_trainer, tmp_path):
    make_trainer(max_steps=2, save_strategy="steps", save_steps=2).train()
    run = tmp_path / "run"
    (run / SETTINGS_FILE).write_text(json.dumps({"teacher": "somebody/a-bert"}))
    found = student_in(run / "checkpoint-2")
    assert (found.kind, found.folder, found.teacher) == ("checkpoint", run / "checkpoint-2", "somebody/a-bert")
    assert student_in(run).kind == "nothing"


def test_other_folders_hold_a_model_or_nothing(tmp_path):
    make_teacher().save_pretrained(tmp_path / "bert")
    assert student_in(tmp_path / "bert") == StudentIn("model", tmp_path / "bert")
    assert student_in(tmp_path / "bert").teacher is None
    for name in (".", "not there"):
        assert student_in(tmp_path / name) == StudentIn("nothing", tmp_path / name)
        with pytest.raises(ValueError, match=r"holds no export \(no facts.json\); expected an export"):
            exported_student(tmp_path / name)


@pytest.mark.parametrize(("teacher", "expected"), [(None, None), ({"hub_id": None}, None), ("x", None), ({}, None)])
def test_a_teacher_that_nobody_names_is_none(run, teacher, expected):
    (run / SETTINGS_FILE).write_text(json.dumps({"teacher": 5}))
    path = run / "student" / "facts.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"teacher": teacher}))
    assert student_in(run).teacher is expected
