"""JSON files are written whole; what is a number is told from true and false."""

import json
import math

from rows import each

from homodistil_hf.files.strict_json import fits, is_int, is_number, read_json, write_json


def test_what_is_written_is_read(tmp_path):
    values = {"b": [1, 2.5, None], "a": "ä"}
    write_json(tmp_path / "x.json", values)
    assert read_json(tmp_path / "x.json", "file") == values
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    write_json(tmp_path / "x.json", values, sort_keys=True)
    assert list(read_json(tmp_path / "x.json", "file")) == ["a", "b"]


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path):
    write_json(tmp_path / "x.json", {"loss": math.nan, "logs": [{"grad_norm": math.inf}, (1.5, -math.inf)]})
    assert read_json(tmp_path / "x.json", "file") == {"loss": None, "logs": [{"grad_norm": None}, [1.5, None]]}


@each(
    ("value", "whole", "number"),
    [(3, True, True), (-1, True, True), (2.0, False, True), (True, False, False), ("3", False, False)],
)
def test_true_is_no_number(value, whole, number):
    assert (is_int(value), is_number(value)) == (whole, number)
    assert (fits([value], [int]), fits({"a": value}, {"a": int | float})) == (whole, number)
