"""Runs of fine-tuned teachers beyond the table of `test_task_kinds.py`: forms of rows, steps, Hub, names of labels."""

import json

import pytest
from datasets import Dataset, concatenate_datasets
from task_rows import rows_of_kind, write_kind
from tiny_files import change_json
from transformers import BertConfig

from homodistil_hf.runs.config import run_of as settings_of
from homodistil_hf.runs.distill import run
from homodistil_hf.runs.kinds import TASK_RUN, run_kind_named, run_kind_of
from homodistil_hf.runs.task import LEAST_STEPS


@pytest.mark.slow
def test_a_scorers_activation_travels(tmp_path):
    settings = write_kind(tmp_path, "values") | {"save_strategy": "no", "max_steps": 1}
    activation = {"activation_fn": "torch.nn.modules.linear.Identity"}
    change_json(tmp_path / "teacher" / "config.json", sentence_transformers=activation)
    run(settings_of(settings, "it"), lambda line: None)
    student = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    assert student["sentence_transformers"] == activation


def test_what_the_held_out_rows_have_is_told_where_it_is_something_else(tmp_path):
    settings = write_kind(tmp_path, "pairs")
    rows_of_kind("pairs", has_labels=False).to_json(tmp_path / "pairs.jsonl")
    rows_of_kind("classes").to_json(tmp_path / "texts.jsonl")
    with_pairs, with_texts = (
        settings_of(settings | {"eval_data": [str(tmp_path / f"{name}.jsonl")]}, "it") for name in ("pairs", "texts")
    )
    made, lines = run_kind_of(with_pairs), []
    made.rows(with_pairs, made.inputs(with_pairs), lines.append)
    assert lines[1] == "eval_data: texts in 'sentence1' and 'sentence2', no labels"
    with pytest.raises(
        ValueError, match="eval_data has text in 'text', .*; expected as many texts a row in both: name"
    ):
        made.rows(with_texts, made.inputs(with_texts), lines.append)


@pytest.mark.slow
def test_labels_of_some_rows_are_enough(tmp_path):
    settings = write_kind(tmp_path, "classes")
    rows = rows_of_kind("classes").to_dict()
    rows["label"] = [label if place % 4 == 0 else None for place, label in enumerate(rows["label"])]
    Dataset.from_dict(rows).to_json(tmp_path / "some.jsonl")
    results = run(settings_of(settings | {"train_data": [str(tmp_path / "some.jsonl")]}, "it"), lambda line: None)
    assert 0 <= results["evaluation"]["task_accuracy"] <= 1
    assert results["evaluation"]["task_loss"] > 0


def test_steps_have_a_floor_and_follow_from_the_rows(tmp_path):
    settings = settings_of({**write_kind(tmp_path, "classes"), "max_steps": -1}, "it")
    made = run_kind_of(settings)
    assert made.training(settings, made.inputs(settings), range(80)).max_steps == LEAST_STEPS
    assert made.training(settings, made.inputs(settings), range(80_000)).max_steps == 30_000
    assert made.training(settings, made.inputs(settings), range(80)).train_sampling_strategy == "group_by_length"
    for epochs in (2, 3):  # 3 is the field's default
        given = settings_of({**write_kind(tmp_path, "classes"), "max_steps": -1, "num_train_epochs": epochs}, "it")
        assert made.training(given, made.inputs(given), range(80)).max_steps == -1
    given = settings_of({**write_kind(tmp_path, "classes"), "train_sampling_strategy": "random"}, "it")
    assert made.training(given, made.inputs(given), range(80)).train_sampling_strategy == "random"


@pytest.mark.slow
@pytest.mark.parametrize("most", [None, 1024])  # 1024 is the field's default
def test_all_rows_are_evaluated_unless_their_number_is_named(tmp_path, most):
    own = write_kind(tmp_path, "classes")
    concatenate_datasets([rows_of_kind("classes")] * 25).to_parquet(tmp_path / "many.parquet")
    own |= {"eval_data": [str(tmp_path / "many.parquet")]} | ({} if most is None else {"max_eval_blocks": most})
    settings = settings_of(own, "it")
    made = run_kind_of(settings)
    assert made.rows(settings, made.inputs(settings), lambda line: None).held_out.num_rows == (most or 1200)


def test_a_hub_teachers_kind_is_read_once_at_its_revision(monkeypatch):
    revisions = []

    def read(name, *, revision, token):
        revisions.append(revision)
        return BertConfig(architectures=["BertForSequenceClassification"])

    monkeypatch.setattr("homodistil_hf.runs.kinds.load_encoder_config", read)
    given = {"teacher": "somebody/classifier", "teacher_revision": "v2", "train_data": "x", "output_dir": "x"}
    settings = settings_of(given, "it")
    assert revisions == []
    assert [run_kind_of(settings) for _ in range(2)] == [run_kind_named(TASK_RUN)] * 2
    assert revisions == ["v2"]
