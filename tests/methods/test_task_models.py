"""Fine-tuned teachers of every kind, by JSON, flags and Python, with labels and without; and rows that don't fit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from methods_here import needs
from ranks import as_ranks
from task_rows import FEELINGS, KINDS, MARKS, SMALL, rows_of_kind, write_kind
from tiny_files import assert_same_weights, own_cache, write_teacher
from transformers import AutoConfig, AutoTokenizer, BertConfig, pipeline

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments
from homodistil_hf.cli import main
from homodistil_hf.data.task_rows.kinds import ANSWERS, LABELS, TAGS, VALUES, kind_of
from homodistil_hf.experiments.config import run_of as settings_of
from homodistil_hf.experiments.distill import run
from homodistil_hf.export.facts import read_facts
from homodistil_hf.files.hub_errors import HubError
from homodistil_hf.methods.task_models import REPORTED, TaskRun, _what_fits, is_task_model
from homodistil_hf.models.loading import load_encoder


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    own_cache(monkeypatch, tmp_path / "cache")


@pytest.fixture(scope="module", params=KINDS)
def finished(request, tmp_path_factory):
    """Kind, settings, lines and results of a run with labels, whose folder has `run/`."""
    name = request.param
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp(name.replace(" ", "_"))
        own_cache(monkeypatch, folder / "cache")
        settings, lines = write_kind(folder, name), []
        results = run(settings_of(settings, "settings"), lines.append)
    return name, settings, lines, results


def test_the_kind_and_the_columns_are_said_first(finished):
    name, settings, lines, results = finished
    kind = KINDS[name][0]
    assert lines[0].startswith(f"{settings['teacher']} predicts ")
    assert f"{', '.join(results['rows']['text_columns'][:1])}" in lines[0]
    assert results["rows"]["kind"] == kind
    assert results["rows"]["num_train_rows"] + results["rows"]["num_eval_rows"] == 48
    assert lines[1].startswith("eval_data is not set: ")
    assert lines[2].startswith("max_seq_length=16: ")
    assert ("contexts are cut into windows" in lines[2]) == (kind == ANSWERS)


@pytest.mark.parametrize(
    ("length", "kind", "words"),
    [
        (24, LABELS, "99 of 100 rows fit, longer ones are cut; 64 are possible"),
        (64, LABELS, "the model reads no more, longer rows are cut"),
        (64, ANSWERS, "longer contexts are cut into windows that overlap"),
    ],
)
def test_what_becomes_of_longer_rows_is_said(length, kind, words):
    assert _what_fits(length, 64, kind) == words


def test_the_outcome_is_in_the_words_of_the_task(finished):
    name, _, _, results = finished
    teacher, student = results["models"]
    own = [metric for metric in REPORTED[KINDS[name][0]] if metric in student]
    assert own
    assert teacher["kl"] == 0 < student["kl"]
    assert all(isinstance(model[metric], float) for model in (teacher, student) for metric in own)
    assert ("agreement" in student) == (KINDS[name][0] != VALUES)


def test_the_export_is_of_the_teachers_class_and_labels(finished):
    _, settings, _, _ = finished
    folder = Path(settings["output_dir"]) / "student"
    teacher, student = (AutoConfig.from_pretrained(one) for one in (settings["teacher"], folder))
    assert student.architectures == teacher.architectures
    assert student.id2label == teacher.id2label
    assert student.problem_type == teacher.problem_type
    assert student.hidden_size == 16
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("w7 w8")["input_ids"] == AutoTokenizer.from_pretrained(settings["teacher"])("w7 w8")["input_ids"]


def test_a_pipeline_reads_the_export(finished, capsys):
    name, settings, _, results = finished
    folder = str(Path(settings["output_dir"]) / "student")
    from homodistil_hf.methods.registry import run_named

    text = run_named("homodistil", settings["teacher"]).summary(results, settings["output_dir"])
    lines = [line[2:] for line in text.splitlines() if line.startswith("  ")]
    code = "\n".join(lines[next(n for n, line in enumerate(lines) if line.startswith("from ")) :])
    exec(code.replace("…", "w7 w8"), {})
    assert capsys.readouterr().out.strip() or KINDS[name][0] == ANSWERS
    if KINDS[name][0] not in (ANSWERS, TAGS):
        model, tokenizer = load_encoder(folder), AutoTokenizer.from_pretrained(folder)
        with torch.no_grad():
            logits = model(**tokenizer("w7 w8", return_tensors="pt")).logits[0]
        expected = {VALUES: logits, LABELS: logits.sigmoid()}.get(KINDS[name][0], logits.softmax(-1))
        given = "none" if KINDS[name][0] == VALUES else None
        found = pipeline("text-classification", folder, top_k=None, function_to_apply=given, device="cpu")("w7 w8")
        scores = {entry["label"]: entry["score"] for entry in (found[0] if isinstance(found[0], list) else found)}
        names = [model.config.id2label[number] for number in range(len(logits))]
        assert [scores[label] for label in names] == pytest.approx(expected.tolist(), rel=1e-4)


def test_the_card_has_the_length_of_the_rows(finished):
    _, settings, _, results = finished
    facts = read_facts(Path(settings["output_dir"]) / "student")
    assert facts["data"]["max_tokens"] == results["rows"]["max_seq_length"] < 128


@pytest.mark.slow
def test_flags_alone_do_the_same(finished, tmp_path, capsys):
    _, settings, _, _ = finished
    words = [word for key, value in settings.items() for word in _flag(key, value, tmp_path)]
    assert main(["distill", *words]) == 0
    assert_same_weights(tmp_path / "run" / "student", Path(settings["output_dir"]) / "student")
    assert "The student:" in capsys.readouterr().out


def _flag(name, value, folder):
    if name == "output_dir":
        value = folder / "run"
    value = value[0] if isinstance(value, list) else json.dumps(value) if isinstance(value, dict) else value
    return [f"--{name}"] if value is True else [f"--{name}", str(value)]


@pytest.mark.slow
def test_python_tokenizes_raw_rows_alike(finished, tmp_path):
    from homodistil_hf.data.task_rows.held_out import keep_aside
    from homodistil_hf.data.task_rows.kinds import find_columns

    name, settings, _, results = finished
    rows = rows_of_kind(name)
    config = AutoConfig.from_pretrained(settings["teacher"])
    train, aside, _ = keep_aside(rows, find_columns(rows, config, kind_of(config)))
    own = {key: value for key, value in settings.items() if key not in ("teacher", "train_data", "output_dir")}
    trainer = HomoDistilTrainer(
        settings["teacher"],
        HomoDistilTrainingArguments(str(tmp_path / "run"), **own),
        train_dataset=train,
        eval_dataset=aside,
        processing_class=AutoTokenizer.from_pretrained(settings["teacher"]),
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_kl"] == results["evaluation"]["kl"]
    trainer.export(tmp_path / "student")
    assert_same_weights(tmp_path / "student", Path(settings["output_dir"]) / "student")


@pytest.mark.slow
def test_a_run_goes_on_from_its_last_checkpoint(finished, tmp_path):
    _, settings, _, results = finished
    shutil.copytree(settings["output_dir"], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "student")
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    again = run(settings_of({**settings, "output_dir": str(tmp_path / "run"), "resume_from_checkpoint": "last"}, "it"))
    assert again["evaluation"] == results["evaluation"]
    assert_same_weights(tmp_path / "run" / "student", Path(settings["output_dir"]) / "student")


@pytest.mark.slow
def test_an_export_is_verified(finished):
    _, settings, _, _ = finished
    assert main(["verify", str(Path(settings["output_dir"]) / "student")]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_rows_without_labels_are_learnt_from(tmp_path, name):
    settings = write_kind(tmp_path, name, has_labels=False)
    settings |= {"method": "homodistil"} if name == "values" else {}  # pairs without labels are a reranker's
    lines = []
    results = run(settings_of(settings, "settings"), lines.append)
    assert lines[0].endswith(", no labels")
    teacher, student = results["models"]
    assert teacher["kl"] == 0 < student["kl"]
    assert results["evaluation"]["loss"] == results["evaluation"]["kl"]
    assert not {"task_loss", "task_accuracy", *REPORTED[KINDS[name][0]]} & results["evaluation"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classes", "tags", "answers"])
def test_a_chain_of_sizes(tmp_path, name):
    smaller = SMALL | {"intermediate_size": 16}
    settings = write_kind(tmp_path, name) | {"student": [SMALL, smaller], "save_strategy": "no"}
    results = run(settings_of(settings, "settings"), lambda line: None)
    assert len(results["models"]) == 3
    assert results["rows"]["kind"] == KINDS[name][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classes", "values", "tags", "answers"])
def test_a_vocabulary_is_trimmed_by_the_texts_of_the_rows(tmp_path, name):
    settings = write_kind(tmp_path, name) | {"vocabulary": "keep=64", "save_strategy": "no"}
    settings |= {"text_column": "sentence1, sentence2"} if name == "values" else {}
    run(settings_of(settings, "settings"), lambda line: None)
    assert AutoConfig.from_pretrained(tmp_path / "run" / "student").vocab_size == 64


ERRORS = {
    "another column": (
        "classes",
        {"label_column": "lable"},
        "label_column='lable'; nearest valid: 'label', of text",
    ),
    "another text": ("classes", {"text_columns": ["texts"]}, "text_columns='texts'; nearest valid: 'text'"),
    "a stream": ("classes", {"streaming": True}, "streaming=True has no place with method='homodistil'"),
    "words first": ("classes", {"further_pretraining": {"max_steps": 2}}, "further_pretraining={.* has no place with"),
    "too long": ("classes", {"max_seq_length": 64}, "max_seq_length=64 is over the teacher's positions=32"),
    "no file": ("classes", {"train_data": ["./none.csv"]}, "does not exist"),
    "no words": (
        "tags",
        {"text_columns": ["ner_tags"], "label_column": "tokens"},
        "column 'ner_tags' holds List; expected a text a row",
    ),
    "no context": ("answers", {"text_columns": ["question"]}, "expected question and context"),
    "few columns": ("two values", {"label_column": "joy"}, "expected 2 finite numbers a row"),
    "both": ("pairs", {"text_column": "text", "text_columns": ["text"] * 2}, "leave one of them out"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_settings_that_do_not_fit_are_refused_before_training(tmp_path, monkeypatch, case):
    name, changes, message = ERRORS[case]
    monkeypatch.setattr(HomoDistilTrainer, "train", lambda *words: pytest.fail("training has started"))
    with pytest.raises((ValueError, OSError), match=message):
        run(settings_of(write_kind(tmp_path, name) | changes, "settings"), lambda line: None)


WRONG_ROWS = {
    "unknown class": ("classes", {"label": ["godo"] * 9}, r"has the label 'godo' \(8 rows\).* nearest valid: 'good'"),
    "counted from 1": ("classes", {"label": [1, 2, 3] * 3}, "has the classes 0 … 2; they count from 1: subtract 1"),
    "lists": ("classes", {"label": [["good"]] * 9}, "expected one class a row"),
    "none": ("classes", {"label": [], "text": []}, "has 0 rows; expected 8 or more|is an empty data set"),
    "few": ("classes", {"label": ["good"], "text": ["w7"]}, "has 1 rows; expected 8 or more"),
    "empty text": ("classes", {"text": [""] * 9}, "has 9 rows without 'text', the first is row 1"),
    "no number": ("values", {"score": ["high"] * 9}, "has the label 'high'; expected a finite number"),
    "infinite": ("values", {"score": ["inf"] * 9}, "has the label 'inf'; expected a finite number"),
    "unknown label": ("several labels", {"labels": [["sad"]] * 9}, "has the label 'sad'"),
    "unknown tag": ("tags", {"ner_tags": [["B-ORG"]] * 9, "tokens": [["w7"]] * 9}, "has the label 'B-ORG'"),
    "other number of tags": (
        "tags",
        {"ner_tags": [["O"]] * 9, "tokens": [["w7", "w8"]] * 9},
        "has 1 tags for 2 words",
    ),
    "answer elsewhere": (
        "answers",
        {"answers": [{"text": ["w9"], "answer_start": [5]}] * 9, "context": ["w7 w8"] * 9, "question": ["w5"] * 9},
        "row 1 has answers=.*in its context at its answer_start",
    ),
}


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_rows_that_do_not_fit_are_refused_before_training(tmp_path, monkeypatch, case):
    name, changes, message = WRONG_ROWS[case]
    monkeypatch.setattr(HomoDistilTrainer, "train", lambda *words: pytest.fail("training has started"))
    settings = write_kind(tmp_path, name)
    count = len(next(iter(changes.values())))
    columns = {key: cells[:count] for key, cells in rows_of_kind(name).to_dict().items()}
    file = tmp_path / "wrong.jsonl"
    Dataset.from_dict({**columns, **changes}).to_json(file)
    with pytest.raises(ValueError, match=message):
        run(settings_of({**settings, "train_data": [str(file)]}, "settings"), lambda line: None)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_measure_what_one_process_does(tmp_path):
    settings = write_kind(tmp_path, "tags") | {"save_strategy": "no", "per_device_eval_batch_size": 1}
    alone = run(settings_of(settings, "it"), lambda line: None)
    halved = settings | {"per_device_train_batch_size": 4, "output_dir": str(tmp_path / "ranks")}
    (tmp_path / "config.json").write_text(json.dumps(halved))
    done = as_ranks("-m", "homodistil_hf", "distill", tmp_path / "config.json")
    assert done.returncode == 0, done.stderr[-2000:]
    ranks = json.loads((tmp_path / "ranks" / "results.json").read_text())
    assert ranks["evaluation"] == pytest.approx(alone["evaluation"], rel=1e-3, abs=1e-4)
    of_teacher = [
        {name: value for name, value in found["models"][0].items() if name != "name"} for found in (ranks, alone)
    ]
    assert of_teacher[0] == pytest.approx(of_teacher[1], rel=1e-5)


@pytest.mark.slow
def test_a_scorers_activation_travels(tmp_path):
    settings = write_kind(tmp_path, "values") | {"save_strategy": "no", "max_steps": 1}
    file = tmp_path / "teacher" / "config.json"
    activation = {"activation_fn": "torch.nn.modules.linear.Identity"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sentence_transformers": activation}))
    run(settings_of(settings, "it"), lambda line: None)
    student = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    assert student["sentence_transformers"] == activation


@pytest.mark.slow
def test_splits_of_a_saved_set_are_found(tmp_path):
    settings = write_kind(tmp_path, "pairs")
    parts = {"train": rows_of_kind("pairs"), "validation": rows_of_kind("pairs", seed=1)}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    lines = []
    folders = {"train_data": [str(tmp_path / "saved")], "eval_data": [str(tmp_path / "saved")]}
    results = run(settings_of(settings | folders, "settings"), lines.append)
    assert (results["rows"]["num_train_rows"], results["rows"]["num_eval_rows"]) == (48, 48)
    assert not any("kept aside" in line for line in lines)


@pytest.mark.slow
def test_labels_of_some_rows_are_enough(tmp_path):
    settings = write_kind(tmp_path, "classes")
    rows = rows_of_kind("classes").to_dict()
    rows["label"] = [label if place % 4 == 0 else None for place, label in enumerate(rows["label"])]
    Dataset.from_dict(rows).to_json(tmp_path / "some.jsonl")
    results = run(settings_of(settings | {"train_data": [str(tmp_path / "some.jsonl")]}, "it"), lambda line: None)
    assert 0 <= results["evaluation"]["task_accuracy"] <= 1
    assert results["evaluation"]["task_loss"] > 0


@pytest.mark.slow
def test_texts_with_spans_are_tagged(tmp_path):
    settings = write_kind(tmp_path, "tags")
    spans = [{"id": n, "text": "w7 w8 w9", "label": [[0, 5, "PER"]]} for n in range(48)]
    (tmp_path / "spans.jsonl").write_text("\n".join(map(json.dumps, spans)))
    lines = []
    results = run(settings_of(settings | {"train_data": [str(tmp_path / "spans.jsonl")]}, "it"), lines.append)
    assert "rows: text in 'text', labels in 'label'" in lines[0]
    assert 0 <= results["evaluation"]["span_f1"] <= 1


def test_steps_have_a_floor_and_follow_from_the_rows(tmp_path):
    from homodistil_hf.methods.registry import run_of
    from homodistil_hf.methods.task_models import LEAST_STEPS

    settings = settings_of({**write_kind(tmp_path, "classes"), "max_steps": -1}, "it")
    made = run_of(settings)
    assert made.arguments(settings, made.inputs(settings), range(80)).max_steps == LEAST_STEPS
    assert made.arguments(settings, made.inputs(settings), range(80_000)).max_steps == 30_000
    given = settings_of({**write_kind(tmp_path, "classes"), "max_steps": -1, "num_train_epochs": 2}, "it")
    assert made.arguments(given, made.inputs(given), range(80)).max_steps == -1


def test_other_names_than_the_teachers_are_told(tmp_path):
    settings = write_kind(tmp_path, "classes")
    write_teacher(tmp_path / "teacher", task="sequence_classification", num_labels=3)
    with pytest.raises(ValueError, match="the model's classes have no names, only numbers 0 … 2: number the rows, or"):
        run(settings_of(settings, "settings"), lambda line: None)
    assert len(FEELINGS) == len(MARKS) == 3


def test_a_hub_teachers_kind_is_read_once_at_its_revision(monkeypatch):
    from homodistil_hf.methods.registry import run_of

    revisions = []

    def read(name, *, revision, token):
        revisions.append(revision)
        return BertConfig(architectures=["BertForSequenceClassification"])

    monkeypatch.setattr("homodistil_hf.methods.task_models.load_encoder_config", read)
    given = {"teacher": "somebody/classifier", "teacher_revision": "v2", "train_data": "x", "output_dir": "x"}
    settings = settings_of(given, "it")
    assert revisions == []
    assert [type(run_of(settings)) for _ in range(2)] == [TaskRun, TaskRun]
    assert revisions == ["v2"]


def test_a_hub_that_does_not_answer_is_told_at_once(monkeypatch):
    def refuse(name, **how):
        raise HubError("teacher='somebody/other' can't be read: no answer")

    monkeypatch.setattr("homodistil_hf.methods.task_models.load_encoder_config", refuse)
    with pytest.raises(HubError, match="no answer"):
        is_task_model("somebody/other")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, "label_column='label' has no place with teacher=.*, which predicts masked words"),
        pytest.param(
            {"task": "sequence_classification", "num_labels": 1},
            "label_column='label' has no place with method='reranker'",
            marks=needs("embedding"),
        ),
    ],
)
def test_a_label_column_without_labels_to_learn_is_refused(tmp_path, model, message):
    write_teacher(tmp_path / "teacher", **model)
    given = {"teacher": str(tmp_path / "teacher"), "train_data": ["x"], "output_dir": str(tmp_path / "run")}
    given |= {"method": "reranker"} if model else {}
    with pytest.raises(ValueError, match=message):
        run(settings_of(given | {"label_column": "label", "student": SMALL}, "it"), lambda line: None)
