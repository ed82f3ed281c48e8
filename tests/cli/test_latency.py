"""`homodistil latency`: who is compared."""

import json
import shutil

import pytest

from homodistil_hf.cli import main

GRID = ("--batch_sizes", "1", "--lengths", "8", "--rounds", "1", "--backends", "torch")


@pytest.mark.slow
def test_a_student_is_compared_with_the_teacher_that_its_run_recorded(finished, tmp_path, capsys):
    student, file = str(finished / "student"), tmp_path / "out.json"
    assert main(["latency", student, *GRID, "--output", str(file)]) == 0
    teacher = json.loads((finished / "settings.json").read_text())["teacher"]
    (cell,) = json.loads(file.read_text())["cells"]
    assert list(cell["latency"]) == [teacher, student]
    several = [student, student + "/", str(finished)]  # among themselves; the last is the run's folder
    assert main(["latency", *several, *GRID, "--output", str(file)]) == 0
    (cell,) = json.loads(file.read_text())["cells"]
    assert list(cell["latency"]) == several
    capsys.readouterr()
    words = ["--teacher", teacher, "--batch_sizes", "2", "--lengths", "8", "64", *GRID[4:]]
    assert main(["latency", student, *words, "--output", str(file)]) == 0
    assert f"torch        2       8  {teacher}" in capsys.readouterr().out
    results = json.loads(file.read_text())
    assert results["settings"]["num_rounds"] == 1
    assert [cell.get("skipped") for cell in results["cells"]] == [None, f"{teacher} has positions=32"]


@pytest.mark.slow
def test_a_recorded_teacher_that_is_gone_is_told(finished, tmp_path, capsys):
    shutil.copytree(finished / "student", tmp_path / "run" / "student")
    (tmp_path / "run" / "settings.json").write_text(json.dumps({"teacher": str(tmp_path / "gone")}))
    file = tmp_path / "out.json"
    assert main(["latency", str(tmp_path / "run" / "student"), *GRID, "--output", str(file)]) == 0
    (cell,) = json.loads(file.read_text())["cells"]
    assert list(cell["latency"]) == [str(tmp_path / "run" / "student")]
    told = capsys.readouterr().err
    assert (
        f"teacher='{tmp_path / 'gone'}', as the run recorded it, can't be loaded, so the student is timed alone; "
        in told
    )
    assert "name one with --teacher: " in told
