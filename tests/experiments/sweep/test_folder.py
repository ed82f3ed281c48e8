"""Records of a sweep that somebody has changed."""

import json

import pytest
from sweep_records import record

from homodistil_hf.experiments.sweep.folder import check_students, read_record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": 3}, "record 'a.json' has cell=3, which no sweep writes: remove it, or mend it"),
        ({"settings": [1]}, "has settings="),
        ({"evaluate": {"glue": True}}, "has evaluate="),
    ],
)
def test_a_record_of_other_types_is_named(tmp_path, change, message):
    (tmp_path / "a.json").write_text(json.dumps(record("a", 0.5) | change))
    with pytest.raises(ValueError, match=message):
        read_record(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["models", "evaluation", "num_tokens", "evaluations"])
def test_a_student_without_its_figures_is_named(name):
    check_students([record("a", 0.5), {"status": "failed"}])
    with pytest.raises(ValueError, match=f"the record of 'a,seed=0' has {name}='x', which no sweep writes"):
        check_students([record("a", 0.5) | {name: "x"}])
