"""A general student that learns a task beside its fine-tuned teacher: every kind, both forms, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from commands import error_of
from rows import each
from task_rows import KINDS, assert_goes_on, rows_of_kind, trained_in_python, write_kind, write_started
from tiny_architectures import UNIFORM, of_every_masked_lm, plan_of, tiny_architecture_teacher
from tiny_files import assert_same_weights, own_cache, write_config, write_teacher
from tiny_trainers import QUARTER
from transformers import AutoConfig

from homodistil_hf.cli import main
from homodistil_hf.export.export_folder import export_model_from
from homodistil_hf.export.facts import read_facts
from homodistil_hf.models.architectures.architecture import SEQUENCE_CLASSIFICATION
from homodistil_hf.models.loading import load_encoder
from homodistil_hf.models.widths import widths_of
from homodistil_hf.runs.config import parse_run
from homodistil_hf.runs.config import run_of as settings_of
from homodistil_hf.runs.distill import run
from homodistil_hf.runs.kinds import run_kind_of
from homodistil_hf.runs.student import make_trainer

pytestmark = pytest.mark.slow

KEEPS_WIDTHS = {"student": None, "num_scoring_batches": 16, "eval_dataset": None}
"""Where the settings of the fixture `make_trainer` are of pruning."""
OF_MODEL = ("num_hidden_layers", "vocab_size", "max_position_embeddings")


@pytest.fixture(scope="module")
def general(tmp_path_factory):
    """The finished run of a general student."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("general")
        own_cache(monkeypatch, folder / "cache")
        # A width that no stock class has.
        layers = [{"num_attention_heads": 2, "head_dim": 8, "intermediate_size": size} for size in (24, 32)]
        student = {"hidden_size": 16, "layers": layers}
        config = write_config(folder, max_steps=2, save_strategy="no", student=student, num_scoring_batches=2)
        run(parse_run([str(config)]), lambda line: None)
        export_model_from(folder / "run", folder / "compact", format="compact")
    return folder / "run"


@pytest.fixture(scope="module", params=KINDS)
def finished(request, general, tmp_path_factory):
    """Kind, settings and results of a run with labels."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("started")
        own_cache(monkeypatch, folder / "cache")
        settings = write_started(folder, request.param, general)
        return request.param, settings, run(settings_of(settings, "settings"), lambda line: None)


def test_such_a_run_is_planned_and_timed(general, tmp_path, capsys):
    settings = write_started(tmp_path, "classes", general) | {"max_steps": 3}
    config = tmp_path / "settings.json"
    config.write_text(json.dumps(settings), encoding="utf-8")
    words = ["plan", "--teacher", settings["teacher"], "--time", "--config", str(config)]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["student"]["plan"] == json.loads((general / "results.json").read_text())["plan"]
    assert found["timing"]["num_steps"] == 3
    assert f"--student=macs=0.5 beside start={str(general)!r} of {config}: drop --student" in error_of(
        capsys, *words, "--student", "macs=0.5"
    )


def test_an_encoder_without_a_head_starts_as_well(tmp_path):
    write_teacher(tmp_path / "masked", num_hidden_layers=1)
    load_encoder(str(tmp_path / "masked")).base_model.save_pretrained(tmp_path / "masked")
    settings = write_started(tmp_path, "classes", tmp_path / "masked") | {"max_steps": 1}
    run(settings_of(settings, "settings"), (lines := []).append)
    assert lines[1].endswith("masked and keeps its widths, with a fresh head")


def test_the_outcome_is_that_of_any_run_of_the_kind(finished, general):
    """The export is stock, with the teacher's labels."""
    name, settings, results = finished
    teacher, student = results["models"]
    assert teacher["kl"] == 0 < student["kl"]
    assert results["rows"]["kind"] == KINDS[name][0]
    assert results["plan"] == json.loads((general / "results.json").read_text())["plan"]
    folder = Path(settings["output_dir"]) / "student"
    assert read_facts(folder)["settings"]["started_as"] == general.name
    assert "starting from a smaller model" in (folder / "README.md").read_text()
    teacher, student = (AutoConfig.from_pretrained(one) for one in (settings["teacher"], folder))
    assert student.architectures == teacher.architectures
    assert (student.id2label, student.problem_type) == (teacher.id2label, teacher.problem_type)
    assert student.hidden_size == 16


def test_python_does_the_same(finished, tmp_path):
    name, settings, _ = finished
    weights = {"hidden_weight": 1.0, "embedding_weight": 0.0}
    trainer, _ = trained_in_python(name, settings, tmp_path / "run", **weights)
    trainer.export(tmp_path / "student")
    assert_same_weights(tmp_path / "student", Path(settings["output_dir"]) / "student")


def test_a_run_goes_on_from_its_last_checkpoint(finished, tmp_path):
    _, settings, results = finished
    assert_goes_on(settings, results, tmp_path)


def test_a_run_beside_a_teacher_starts_with_what_fits_best(general, tmp_path):
    """The loss is the one of `homodistil finetune --teacher`, and a regression begins at its teacher's mean answer."""
    settings = write_started(tmp_path, "values", general, has_labels=True)
    made = settings_of(settings | {"learning_rate": 0.0}, "it")
    trainer = make_trainer(made, lambda line: None)
    weights = {name: weight for name, weight in trainer.distillation.weights.items() if weight and name != "mlm"}
    assert weights == {"task": 1.0, "kl": 1.0, "hidden": 1.0}
    trainer.train()
    student, teacher = trainer.model.eval(), trainer.distillation.teacher.exact
    batches = [trainer._prepare_inputs(batch) for batch in trainer.get_train_dataloader()]
    states, answers = [], []
    with torch.no_grad():
        for batch in batches:
            read = {name: tensor for name, tensor in batch.items() if name != "labels"}
            outputs = [model(**read, output_hidden_states=True) for model in (student, teacher)]
            states.append([output.hidden_states[2][read["attention_mask"].bool()] for output in outputs])
            answers.append(outputs[1].logits)
    own, target = (torch.cat(side) for side in zip(*states, strict=True))
    best = torch.linalg.lstsq(own, target, driver="gelsd").solution
    torch.testing.assert_close(student.projections.hidden[1].weight.T.detach(), best, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(student.classifier.bias.detach(), torch.cat(answers).mean(0))


def test_a_named_weight_counts_though_it_is_the_fields_default(general, tmp_path):
    made = settings_of(write_started(tmp_path, "classes", general), "it", ["--hidden_weight", "30"])
    method = run_kind_of(made)
    arguments = method.training(made, method.inputs(made), range(80))
    assert (arguments.hidden_weight, arguments.embedding_weight) == (30.0, 0.0)
    assert settings_of(made.given, "settings.json").given == made.given | {"hidden_weight": 30.0}


@pytest.mark.parametrize("name", ["classes", "tags"])
def test_labels_are_not_needed(general, tmp_path, name):
    results = run(settings_of(write_started(tmp_path, name, general.parent / "compact", has_labels=False), "it"))
    assert "task_loss" not in results["evaluation"]
    assert results["plan"] == json.loads((general / "results.json").read_text())["plan"]


def test_a_start_of_fewer_layers_learns_the_states_of_those_spread_evenly(tmp_path):
    start = write_teacher(tmp_path / "other", num_hidden_layers=1)
    made = settings_of(write_started(tmp_path, "values", start, has_labels=True) | {"learning_rate": 0.0}, "it")
    trainer = make_trainer(made, lambda line: None)
    trainer.train()
    assert list(trainer.distillation.matched_layers) == [1]
    student, teacher = trainer.model.eval(), trainer.distillation.teacher.exact
    (batch, *_) = (trainer._prepare_inputs(batch) for batch in trainer.get_train_dataloader())
    read = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad():
        own, target = (model(**read, output_hidden_states=True).hidden_states[-1] for model in (student, teacher))
        error = (student.projections.hidden[0](own) - target).square().mean()
    assert error < target.var()  # what fits the teacher's last layer best, not its first


@pytest.mark.parametrize("num_layers", [1, 3])
def test_without_hidden_states_the_layers_may_be_others(tmp_path, num_layers):
    start = write_teacher(tmp_path / "other", num_hidden_layers=num_layers)
    results = run(settings_of(write_started(tmp_path, "classes", start) | {"hidden_weight": 0}, "it"))
    assert AutoConfig.from_pretrained(tmp_path / "run" / "student").num_hidden_layers == num_layers
    assert results["evaluation"]["kl"] > 0


@each("name", KINDS)
def test_a_smaller_model_of_the_task_goes_on_beside_its_teacher(tmp_path, name):
    """It keeps head and widths; only the projections are fitted before the first step."""
    pruned = write_kind(tmp_path, name)
    run(settings_of(pruned, "pruned"), lambda line: None)
    earlier = tmp_path / "run"
    of_start = {key: value for key, value in pruned.items() if key not in ("student", "num_scoring_batches")}
    of_start |= {"start": str(earlier), "learning_rate": 0.0, "output_dir": str(tmp_path / "again")}
    results = run(settings_of(of_start, "started"), lambda line: None)
    assert_same_weights(tmp_path / "again" / "student", earlier / "student")
    assert results["plan"] == json.loads((earlier / "results.json").read_text())["plan"]
    assert "starting from a smaller model" in (tmp_path / "again" / "student" / "README.md").read_text()


@each(
    ("setting", "message"),
    [
        ({"pruning_end_fraction": 0.5}, "pruning_end_fraction=0.5 beside a model that keeps its widths: nothing is p"),
        ({"projection_init": "random"}, "projection_init='random' beside a model .*fits the teacher best"),
    ],
)
def test_settings_of_pruning_are_refused_in_python_too(make_trainer, general, tmp_path, setting, message):
    teacher = write_kind(tmp_path, "classes")["teacher"]
    data = {"teacher_model": teacher, "train_dataset": rows_of_kind("classes"), **KEEPS_WIDTHS}
    with pytest.raises(ValueError, match=message):
        make_trainer(model=str(general / "student"), **data, **setting)


REFUSED = {
    "a chain": ({"student": [QUARTER]}, r"student=.* beside start=.*keeps the widths of its start; leave out one"),
    "a size": ({"student": "macs=0.25"}, "student='macs=0.25' beside start="),
    "fewer words": ({"vocabulary": "keep=64"}, "vocabulary='keep=64' beside start=.*keeps the words of its start"),
    "pruning": ({"pruning_end_fraction": 0.5}, "pruning_end_fraction=0.5 beside start=.*nothing is pruned"),
    "plain": ({"plain": True}, "plain=True beside start=.*keeps the widths of its start"),
    "projections": ({"projection_init": "random"}, "projection_init='random' beside start=.*fits the teacher best"),
    "a recipe": ({"recipe": "paper"}, "recipe='paper' beside start=.*its settings are of pruning; leave out one"),
    "a baseline": ({"method": "one_shot"}, "start=.* has no place with method='one_shot'"),
    "nothing there": ({"start": "./none"}, "start='./none' does not exist"),
    "the teacher": ({"start": "TEACHER"}, "start=.* is as wide as the teacher .*; start from a smaller model"),
    "another task": ({"start": "TAGGER"}, "has class=BertForTokenClassification, the teacher .* BertForSequence"),
    "words": ({"teacher": "WORDS"}, "start=.* has no place with teacher=.*, which predicts masked words"),
    "layers": ({"num_hidden_layers": 3}, "has num_hidden_layers=3, the teacher .* 2; .*or set hidden_weight=0"),
    "vocabulary": ({"vocab_size": 90}, "has vocab_size=90, the teacher .* 96; start from a student that was made"),
    "positions": ({"max_position_embeddings": 24}, "reads 24 tokens, fewer than the teacher; set max_seq_length=24"),
    "other words": ({}, "start=.* reads 'v7' as token 7, the teacher .* 'w7'; start from a student that was made"),
}


@pytest.mark.usefixtures("never_trains")
@each("case", REFUSED)
def test_what_does_not_fit_is_refused(general, tmp_path, monkeypatch, case):
    changes, message = REFUSED[case]
    settings = write_started(tmp_path, "classes", general)
    places = {"TEACHER": settings["teacher"], "WORDS": str(general / "student")}
    if case == "another task":
        places["TAGGER"] = write_kind(tmp_path / "tags", "tags")["teacher"]
    of_model = {name: value for name, value in changes.items() if name in OF_MODEL}
    changes = {name: places.get(str(value), value) for name, value in changes.items() if name not in OF_MODEL}
    if of_model or case == "other words":
        changes["start"] = str(write_teacher(tmp_path / "other", **of_model))
    if case == "other words":
        file = tmp_path / "other" / "tokenizer.json"
        file.write_text(file.read_text().replace('"w7"', '"v7"'))
    with pytest.raises((ValueError, OSError), match=message):
        run(settings_of(settings | changes, "settings"), lambda line: None)
    assert not Path(settings["output_dir"]).exists()


@of_every_masked_lm
def test_a_general_model_of_every_architecture_gets_its_teachers_head(make_trainer, architecture):
    """`tests/evaluation/test_architectures.py` has the fresh heads of every kind."""
    plan = plan_of(architecture, UNIFORM)
    general = tiny_architecture_teacher(architecture, architecture.heads[0])
    narrow = make_trainer(model=general, student=json.dumps(plan.to_dict()), max_steps=1)
    narrow.train()
    (head,) = (one for one in architecture.heads if one.kind is SEQUENCE_CLASSIFICATION)
    teacher = tiny_architecture_teacher(architecture, head, num_labels=3)
    rows = rows_of_kind("classes", has_labels=False)
    how = {"teacher_model": teacher, "train_dataset": rows, **KEEPS_WIDTHS}
    trainer = make_trainer(model=narrow.dense_student(), max_steps=1, **how)
    trainer.train()
    assert type(trainer.dense_student()).__name__ == head.student_name
    assert widths_of(trainer.model.config) == plan
