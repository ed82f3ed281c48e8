"""Nothing outside a folder is read, sent or changed for names that a stranger wrote into its records."""

import json
import os
from random import Random

import pytest
from deployed import needs_onnx
from tiny_models import random_student

from homodistil_hf import deploy_export, export_student, verify_export
from homodistil_hf.cli import main
from homodistil_hf.export.hub import files_to_push
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForSequenceClassification

ROW = {
    **{"target": "onnx-int8", "file": "onnx/model_quantized.onnx", "runtime": "ONNX Runtime"},
    **{"size_bytes": 7, "is_written": False, "fidelity_name": "cosine", "figures": {}, "latency_ms": {}},
    "not_run": "",
}
LEADING_OUT = ("{home}/key.txt", "../home/key.txt", "onnx/../../home/key.txt", "..\\home\\key.txt")


@pytest.fixture
def home(tmp_path):
    """A user's own files, which have to stay as they are and where they are."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "key.txt").write_text("secret")
    (home / "key.bin").write_text("weights")
    return home


@pytest.fixture
def run(tmp_path, home, tokenizer):
    """A finished run: its student, and records whose names may be a stranger's."""
    run = tmp_path / "run"
    student = random_student(HomoBertForSequenceClassification, num_labels=3)
    export_student(student, run / "student", tokenizer=tokenizer, facts={"settings": {"teacher": "a teacher"}})
    for file in ("settings.json", "results.json", "family.json"):
        (run / file).write_text(json.dumps({"teacher": "a", "models": [{"name": "b"}], "finished": ["student"]}))
    return run


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def state_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("is_written", (True, False))
@pytest.mark.parametrize("name", (*LEADING_OUT, "config.json", "onnx/model.onnx"))
def test_deploy_uses_no_name_but_those_of_its_targets(run, home, name, is_written):
    student, before = run / "student", state_of(home)
    file = name.format(home=home)
    edit(student / "facts.json", runtimes={"rows": [ROW | {"file": file, "is_written": is_written}]})
    files = state_of(student)
    (problem,) = verify_export(student).problems
    assert (
        problem == f"facts.json runtimes: expected a target and its file, found 'onnx-int8': {file!r}"
        or "..." in problem
    )
    with pytest.raises(ValueError, match="can't be deployed: facts.json runtimes: expected a target and its file"):
        deploy_export(student, "onnx-int8", num_rounds=0)
    assert state_of(home) == before
    assert state_of(student) == files


@pytest.mark.parametrize("name", LEADING_OUT)
def test_push_sends_no_file_that_facts_list_outside(run, home, name):
    file, facts = name.format(home=home), run / "student" / "facts.json"
    edit(facts, files=json.loads(facts.read_text())["files"] | {file: {"sha256": "", "size_bytes": 6}})
    with pytest.raises(ValueError, match="which leads out of it, so nothing is sent"):
        files_to_push(run / "student")
    assert any(
        "expected names of files in this folder" in problem for problem in verify_export(run / "student").problems
    )


@pytest.mark.parametrize("name", ("vocab.txt", "README.md", "notes/key.txt"))
def test_push_follows_no_link_out(run, home, name):
    student, facts = run / "student", run / "student" / "facts.json"
    (student / name).unlink(missing_ok=True)
    os.symlink(*((home, student / "notes") if "/" in name else (home / "key.txt", student / name)))
    edit(facts, files=json.loads(facts.read_text())["files"] | {name: {"sha256": "", "size_bytes": 6}})
    with pytest.raises(ValueError, match=f"lists '{name}', which leads out of it, so nothing is sent"):
        files_to_push(student)
    link = name.partition("/")[0]
    assert (
        f"{link}: expected a file of this folder, found a link that leads out of it" in verify_export(student).problems
    )


@needs_onnx
@pytest.mark.parametrize("target", ("home", "home/key.txt", "missing"))
def test_deploy_copies_nothing_that_a_link_leads_to(run, home, target):
    os.symlink(run.parent / target, run / "student" / "notes")
    with pytest.raises(ValueError, match="has the link 'notes' to .*, which is no file of the folder"):
        deploy_export(run / "student", "onnx", num_rounds=0)
    assert (
        "notes: expected a file of this folder, found a link that leads out of it"
        in verify_export(run / "student").problems
    )


@pytest.mark.slow
@pytest.mark.parametrize("file", ("student/facts.json", "results.json", "settings.json", "family.json"))
def test_no_record_of_a_run_leads_out_of_it(run, home, file, capsys, tmp_path):
    draw, good, before = Random(0), (run / file).read_text(), state_of(home)
    for _ in range(12):
        values = json.loads(good)
        holder, key = draw.choice(list(places(values)))
        name = draw.choice(LEADING_OUT).format(home=home)
        if isinstance(holder, dict) and draw.random() < 0.3:
            holder[name] = holder.pop(key)
        else:
            holder[key] = name
        (run / file).write_text(json.dumps(values))
        for words in (
            ["report", str(run)],
            ["push", str(run / "student"), "me/small", "--dry_run"],
            ["export", str(run), "--output", str(tmp_path / "again"), "--overwrite"],
        ):
            assert main(words) in (0, 1, 2)
        assert "secret" not in capsys.readouterr().out
        assert state_of(home) == before
        assert not any("secret" in path.read_text(errors="replace") for path in state_of(run) if path.suffix != ".bin")


def places(value):
    """Each holder and key below a JSON value."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)
