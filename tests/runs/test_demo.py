import io
import json
import os
import shlex
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
import torch
from resumed_runs import sigterm_at
from rows import each
from safetensors.torch import load_file
from tiny_files import assert_same_weights
from transformers import BertForMaskedLM, pipeline

from homodistil_hf.cli import main
from homodistil_hf.cli.demo import Demo
from homodistil_hf.export import verify
from homodistil_hf.methods.formats import verify_export
from homodistil_hf.models.cost import model_facts
from homodistil_hf.runs.config import parse_run
from homodistil_hf.runs.demo.run import (
    TEACHER,
    DemoSettings,
    claim_folder,
    english_paragraphs,
    is_held_out,
    next_steps,
    read_documents,
    run_demo,
    source_files,
    verdict,
)
from homodistil_hf.training.distillation_trainer import DistillationTrainer

MODELS = ["teacher", "student", "at_once", "scratch"]
ROW_KEYS = ["name", "num_parameters", "encoder_macs", "size_bytes", "latency_ms", "kl", "mlm_accuracy"]
SENTENCE = "Return the number of bytes that are left in the buffer."


def small(folder: Path, seed: int = 0) -> DemoSettings:
    """A demo of ten steps."""
    settings = {"max_steps": 10, "batch_size": 4, "num_eval_blocks": 8}
    return DemoSettings(output_dir=str(folder), seed=seed, **settings)


@cache
def some_files() -> dict[str, Path]:
    """Three of them are held out."""
    files = dict(list(source_files().items())[:60])
    return {name: file for number, (name, file) in enumerate(files.items()) if number < 15 or is_held_out(name)}


@pytest.fixture(scope="module", autouse=True)
def _processes_are_forked(forked_python):
    """Those that load the student."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(verify, "subprocess", forked_python)
        yield


def run_small_demo(folder: Path, seed: int = 0) -> None:
    run_demo(small(folder, seed), some_files())


@pytest.fixture(scope="module")
def demo_and_lines(tmp_path_factory):
    """What a shrunken demo left, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("demo of a test") / "demo", io.StringIO()
    with redirect_stdout(printed):
        run_small_demo(folder)
    return folder, printed.getvalue()


@pytest.fixture(scope="module")
def demo(demo_and_lines):
    return demo_and_lines[0]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# text


def test_strings_and_comments_are_read_and_nothing_runs(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        f'"""{SENTENCE}\n\n>>> is not the text of a doctest, and it is in the module that this is about.\n"""\n'
        "raise SystemExit('this file was run')\n"
        "class A:\n"
        '    """A class that has\n    a docstring of its own and that is to be read."""\n'
        "    # A comment that goes on\n"
        "    #\twith a second line and is to be read as one.\n"
        "    #\n"
        "    # A paragraph of its own in the comment, as there is a line without words.\n"
        "    x = 1  # what stands behind code is not to be read, as it is no sentence most of the time\n"
    )
    assert english_paragraphs(path) == [
        SENTENCE,
        "A class that has a docstring of its own and that is to be read.",
        "A comment that goes on with a second line and is to be read as one.",
        "A paragraph of its own in the comment, as there is a line without words.",
    ]


def test_what_is_held_out_is_in_no_training_text(tmp_path):
    names = [f"{number}.py" for number in range(60)]
    for name in names:
        (tmp_path / name).write_text(f'"""{SENTENCE}\n\nThis is the text of module {name} and it is in no other."""')
    train, held_out = read_documents({name: tmp_path / name for name in names})
    assert len(train) + len(held_out) == 60
    assert [SENTENCE in document for document in train] == [True] + [False] * (len(train) - 1)
    expected = [f"This is the text of module {name} and it is in no other." for name in names if is_held_out(name)]
    assert held_out == expected != []
    with pytest.raises(ValueError, match="num_files=0: this Python's standard library has no source text"):
        read_documents({})


# the teacher that comes with the package


def test_the_teacher_is_small_and_loads_with_stock_transformers():
    assert sum(path.stat().st_size for path in TEACHER.iterdir()) <= 3_000_000
    assert {path.suffix for path in TEACHER.iterdir()} == {".json", ".md", ".safetensors"}
    fill = pipeline("fill-mask", model=str(TEACHER), device="cpu")
    assert type(fill.model) is BertForMaskedLM
    assert fill.model.dtype == torch.float32
    assert len(fill.tokenizer) == fill.model.config.vocab_size
    texts = ["read at most n bytes from the [MASK].", "This function returns [MASK] if the path is a directory."]
    assert [guesses[0]["token_str"] for guesses in fill(texts)] == ["bytes", "true"]  # of their context


# the demo


@pytest.mark.slow
def test_the_demo_leaves_what_it_says(demo):
    names = {path.name for path in demo.iterdir()}
    files = {"results.json", "demo.json", "report.html"}
    assert names == {*MODELS} | files
    page = (demo / "report.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in ("teacher", "student", "at_once", "scratch"))
    assert "license: apache-2.0" in (demo / "student" / "README.md").read_text()
    assert "held out: KL" in page
    assert "of masked-word accuracy on " in page


@pytest.mark.slow
def test_rows_state_what_the_models_are(demo):
    rows = json.loads((demo / "results.json").read_text())
    assert [row["name"] for row in rows] == MODELS
    for row in rows:
        assert list(row) == ROW_KEYS
        facts = model_facts(BertForMaskedLM.from_pretrained(demo / row["name"]))
        assert {key: row[key] for key in ROW_KEYS[1:4]} == {key: facts[key] for key in ROW_KEYS[1:4]}
        assert row["latency_ms"] > 0
        assert 0 <= row["mlm_accuracy"] <= 1
    teacher, student, at_once, scratch = rows
    assert teacher["kl"] == 0.0
    assert 1e-4 < student["kl"] < scratch["kl"]
    assert student["encoder_macs"] == at_once["encoder_macs"] == scratch["encoder_macs"]
    assert student["encoder_macs"] == pytest.approx(teacher["encoder_macs"] / 16, rel=0.1)


def test_the_verdict_is_of_ratios():
    teacher = {"size_bytes": 4_000_000, "latency_ms": 30.0, "kl": 0.0, "mlm_accuracy": 0.5}
    student = {"size_bytes": 1_000_000, "latency_ms": 12.0, "kl": 0.6, "mlm_accuracy": 0.4}
    assert verdict([teacher, student, student, student | {"kl": 3.0, "mlm_accuracy": 0.1}]) == (
        "student: 4× smaller, 2.5× faster here, keeps 80 % of masked-word accuracy\n"
        "the same size from scratch: keeps 20 % of masked-word accuracy"
    )


@pytest.mark.slow
def test_the_students_can_be_verified(demo):
    for name in ("student", "at_once", "scratch"):
        assert verify_export(demo / name).problems == ()
    teacher = weights(demo / "teacher")
    assert all(torch.equal(teacher[name], tensor.float()) for name, tensor in weights(TEACHER).items())


@pytest.mark.slow
def test_the_next_steps_can_be_taken(demo, capsys):
    (_, *use), (_, *plan), (_, *distill) = (
        shlex.split(line.partition(":")[1] + line.partition(":")[2]) for line in next_steps(demo).split("\n")
    )
    model = str(demo / "teacher")
    exec(use[-1])
    assert main([model if word == "YOUR_MODEL" else word for word in plan[plan.index("plan") :]]) == 0
    assert "student / teacher" in capsys.readouterr().out
    settings = parse_run([model if word == "YOUR_MODEL" else word for word in distill[distill.index("distill") + 1 :]])
    assert settings.given["teacher"] == model


@pytest.mark.slow
def test_what_sigterm_stopped_goes_on_to_the_same_students(demo, tmp_path, caplog):
    again = tmp_path / "again"
    with sigterm_at(DistillationTrainer, 13), pytest.raises(SystemExit, match="143"):
        run_small_demo(again, seed=1)  # the seed below begins anew
    different = [(folder / "student" / "model.safetensors").read_bytes() for folder in (demo, again)]
    assert different[0] != different[1]
    caplog.clear()
    for step, saved in ((7, 7), (6, 3), (10, 3)):  # one student, at once, from scratch
        with sigterm_at(DistillationTrainer, step), pytest.raises(SystemExit, match="143"):
            run_small_demo(again)
        assert f"checkpoint-{saved} is saved; go on with the same command" in caplog.text
        caplog.clear()
    with sigterm_at(DistillationTrainer, None) as seen:
        run_small_demo(again)
    assert len(seen) == 30 - (7 + 6 + 10)
    for name in MODELS:
        assert_same_weights(demo / name, again / name)
    assert sorted(os.listdir(demo)) == sorted(os.listdir(again))


@pytest.mark.slow
def test_the_demo_tells_how_it_goes(demo_and_lines):
    folder, printed = demo_and_lines
    assert "MLM accuracy" in printed
    assert "The default [MASK] is None." in printed
    assert printed.count("held out: KL") == 3 * (1 + 10)  # before the first step and after each, of three students
    assert printed.count("× smaller, ") == 1
    rows = json.loads((folder / "results.json").read_text())
    assert printed.endswith(f"\n\n{verdict(rows)}\n{folder / 'report.html'}\n\n{next_steps(folder)}\n")


def claim(folder):
    claim_folder(DemoSettings(output_dir=str(folder)))


@pytest.mark.slow
def test_the_demo_overwrites_its_own_folder_only(demo, tmp_path, capsys):
    claim(tmp_path / "new")
    claim(tmp_path / "new")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("")
    assert main(["demo", "--output_dir", str(tmp_path / "foreign")]) == 2
    assert "is not empty and was not written by homodistil demo; name another folder" in capsys.readouterr().err
    (tmp_path / "foreign" / "demo.json").write_text('{"made_by": "somebody"}')
    with pytest.raises(ValueError, match="was not written by homodistil demo"):
        claim(tmp_path / "foreign")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        claim(tmp_path / "foreign" / "thesis.tex")


@each(
    ("numbers", "message"),
    [
        ({"max_steps": 5}, "max_steps=5 is too small; nearest valid: 10"),
        ({"seed": -1}, "seed=-1 is too small; nearest valid: 0"),
    ],
)
def test_numbers_that_can_not_work(numbers, message):
    with pytest.raises(ValueError, match=message):
        DemoSettings(**numbers)


def test_the_command_has_the_demos_defaults():
    assert DemoSettings(**asdict(Demo())) == DemoSettings()
