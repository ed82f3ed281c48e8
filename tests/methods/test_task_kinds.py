"""Every kind of fine-tuned teacher, and rerankers, in every way that a run can go: one table, kind × way.

The ways: JSON, flags, Python, without labels, two ranks, resumed, a chain of sizes with fewer words; and what comes
out: a stock class, a pipeline, an export that verifies. `test_task_start.py` has runs from a general student.
"""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from task_rows import (
    RANKED,
    WITH_RANKED,
    assert_goes_on,
    closing_code,
    rows_of_kind,
    trained_in_python,
    write_kind,
    write_started,
)
from tiny_files import assert_same_weights, own_cache, write_teacher
from tiny_models import VOCAB_SIZE
from tiny_trainers import QUARTER
from transformers import AutoConfig, AutoTokenizer, pipeline

from homodistil_hf.cli import main
from homodistil_hf.export.facts import read_facts
from homodistil_hf.models.loading import load_encoder
from homodistil_hf.runs.config import run_of as settings_of
from homodistil_hf.runs.distill import run
from homodistil_hf.runs.kinds import run_kind_of
from homodistil_hf.runs.task import REPORTED
from homodistil_hf.tasks.kinds import ANSWERS, LABELS, TAGS, VALUES

STARTED = "from a general model"
OF_ORDER = ("ndcg_at_10", "mrr_at_10", "spearman")
"""Metrics of a reranker's labels."""


@pytest.fixture(scope="module", params=WITH_RANKED)
def finished(request, tmp_path_factory):
    """Kind, settings, lines and results of a run with labels, whose folder has `run/`."""
    name = request.param
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp(name.replace(" ", "_"))
        own_cache(monkeypatch, folder / "cache")
        settings, lines = write_kind(folder, name), []
        results = run(settings_of(settings, "settings"), lines.append)
    return name, settings, lines, results


def _by_json(finished, folder, ranks):
    """The first lines say what was understood, the results what was reached, in the words of the task."""
    name, settings, lines, results = finished
    kind = WITH_RANKED[name][0]
    assert lines[0].startswith(f"{settings['teacher']} {'scores' if name == RANKED else 'predicts'} ")
    assert f"{', '.join(results['rows']['text_columns'][:1])}" in lines[0]
    assert results["rows"]["kind"] == kind
    assert results["rows"]["num_train_rows"] + results["rows"]["num_eval_rows"] == 48
    assert lines[1].startswith("eval_data is not set: ")
    assert lines[2].startswith("max_seq_length=16: ")
    assert ("contexts are cut into windows" in lines[2]) == (kind == ANSWERS)
    (read,) = (line for line in lines if line.startswith("rows: "))
    assert f"{results['rows']['num_eval_rows']} held out, 48 with labels, " in read or name in (ANSWERS, RANKED)
    assert "48 with labels, " in read or kind == ANSWERS
    assert f"read: {', '.join(results['rows']['text_columns'] + results['rows']['label_columns'])}" in read
    teacher, student = results["models"]
    if name == RANKED:
        _order_is_measured(settings, lines, results)
        return
    own = [metric for metric in REPORTED[kind] if metric in student]
    assert own
    assert teacher["kl"] == 0 < student["kl"]
    assert all(isinstance(model[metric], float) for model in (teacher, student) for metric in own)
    assert ("agreement" in student) == (kind != VALUES)


def _order_is_measured(settings, lines, results):
    """By the labels, of the teacher too, on every page that the run writes."""
    said = "rows: texts in 'query' and 'passage', labels in 'relevance', which the order is measured by"
    assert lines[0].endswith(said)
    assert " of 48 rows of train_data='" in lines[1]
    assert lines[1].endswith("rows.parquet' are kept aside, all rows of a 'query' together")
    folder = Path(settings["output_dir"])
    facts, summary = read_facts(folder / "student"), _summary_of(settings, results)
    for model, section in zip(results["models"], ("teacher_evaluation", "evaluation"), strict=True):
        assert all(math.isfinite(model[name]) for name in (*OF_ORDER, "correlation"))
        assert {name: facts[section][name] for name in OF_ORDER} == {name: model[name] for name in OF_ORDER}
        assert f"{model['ndcg_at_10']:.3f}" in summary
    assert "nDCG@10" in summary
    for file in (folder / "student" / "README.md", folder / "report.html"):
        assert "nDCG@10 of the order, by the labels" in file.read_text(encoding="utf-8")


def _summary_of(settings, results):
    return run_kind_of(settings_of(settings, "it")).summary(results, settings["output_dir"])


def _by_flags(finished, folder, ranks):
    _, settings, _, _ = finished
    words = [word for key, value in settings.items() for word in _flag(key, value, folder)]
    assert main(["distill", *words]) == 0
    assert_same_weights(folder / "run" / "student", Path(settings["output_dir"]) / "student")


def _flag(name, value, folder):
    if name == "output_dir":
        value = folder / "run"
    value = value[0] if isinstance(value, list) else json.dumps(value) if isinstance(value, dict) else value
    return [f"--{name}"] if value is True else [f"--{name}", str(value)]


def _in_python(finished, folder, ranks):
    """Raw rows are tokenized as the command does it."""
    name, settings, _, results = finished
    trainer, aside = trained_in_python(name, settings, folder / "run")
    metrics, raw = trainer.evaluate(), trainer.evaluate(aside)
    assert {key: raw[f"eval_{key}"] for key in results["evaluation"]} == {
        key: metrics[f"eval_{key}"] for key in results["evaluation"]
    }
    if name == RANKED:  # the command puts rows of one length side by side
        assert len(trainer.train_dataset) == 2 * results["rows"]["num_train_rows"]
        teacher = trainer.evaluate_teacher()
        assert {key: teacher[key] for key in OF_ORDER} == {key: results["models"][0][key] for key in OF_ORDER}
        assert {f"eval_{key}" for key in (*OF_ORDER, "correlation")} <= metrics.keys()
        return
    assert {key: metrics[f"eval_{key}"] for key in results["evaluation"]} == results["evaluation"]
    trainer.export(folder / "student")
    assert_same_weights(folder / "student", Path(settings["output_dir"]) / "student")
    _run_code_of_card(folder / "student", results["rows"])


def _without_labels(finished, folder, ranks):
    name = finished[0]
    settings, lines = write_kind(folder, name, has_labels=False), []
    settings |= {"method": "homodistil"} if name == "values" else {}  # pairs without labels are a reranker's
    results = run(settings_of(settings, "settings"), lines.append)
    assert lines[0].endswith(", no labels")
    teacher, student = results["models"]
    if name == RANKED:
        assert -1 <= student["correlation"] <= 1
        assert not {*OF_ORDER} & results["evaluation"].keys()
        return
    assert teacher["kl"] == 0 < student["kl"]
    assert results["evaluation"]["loss"] == results["evaluation"]["kl"]
    assert not {"task_loss", "task_accuracy", *REPORTED[WITH_RANKED[name][0]]} & results["evaluation"].keys()


def _on_two_ranks(finished, folder, ranks):
    name, _, _, results = finished
    found = ranks[name]
    assert found["evaluation"] == pytest.approx(results["evaluation"], rel=1e-3, abs=1e-4)
    teachers = [{key: one[key] for key in one if key != "name"} for one in (found["models"][0], results["models"][0])]
    assert teachers[0] == pytest.approx(teachers[1], rel=1e-5, abs=1e-6)


def _resumed(finished, folder, ranks):
    _, settings, _, results = finished
    assert_goes_on(settings, results, folder)


def _as_a_chain_of_fewer_words(finished, folder, ranks):
    name = finished[0]
    chain = {"student": [QUARTER, QUARTER | {"intermediate_size": 16}], "save_strategy": "no", "max_steps": 2}
    settings = write_kind(folder, name) | chain | ({} if name == RANKED else {"vocabulary": "keep=64"})
    settings |= {"text_column": "sentence1, sentence2"} if name == "values" else {}
    results = run(settings_of(settings, "settings"), lambda line: None)
    assert len(results["models"]) == 3
    assert results["rows"]["kind"] == WITH_RANKED[name][0]
    exports = [folder / "run" / one["folder"] / "student" for one in results["members"]]
    students = [AutoConfig.from_pretrained(export) for export in exports]
    num_words = VOCAB_SIZE if name == RANKED else 64
    assert [(one.vocab_size, one.intermediate_size) for one in students] == [(num_words, 32), (num_words, 16)]
    assert len(AutoTokenizer.from_pretrained(exports[1])) == num_words


def _to_a_stock_class(finished, folder, ranks):
    _, settings, _, results = finished
    export = Path(settings["output_dir"]) / "student"
    teacher, student = (AutoConfig.from_pretrained(one) for one in (settings["teacher"], export))
    assert student.architectures == teacher.architectures
    assert student.id2label == teacher.id2label
    assert student.problem_type == teacher.problem_type
    assert student.hidden_size == 16
    tokenizer = AutoTokenizer.from_pretrained(export)
    assert tokenizer("w7 w8")["input_ids"] == AutoTokenizer.from_pretrained(settings["teacher"])("w7 w8")["input_ids"]
    assert read_facts(export)["data"]["max_tokens"] == results["rows"]["max_seq_length"] < 128


def _to_a_pipeline(finished, folder, ranks):
    """The closing lines run, and a pipeline's scores are those of the model's activation."""
    name, settings, _, results = finished
    kind, export = WITH_RANKED[name][0], str(Path(settings["output_dir"]) / "student")
    if name == RANKED:
        pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    exec(closing_code(_summary_of(settings, results)), {})
    if name == RANKED:
        scorer = pipeline("text-classification", export, function_to_apply="none", device="cpu")
        first, second = (scorer({"text": "w10 w20", "text_pair": text}) for text in ("w7 w7 w30", "w40"))
        assert first != second
        return
    _run_code_of_card(Path(export), results["rows"])
    if kind in (ANSWERS, TAGS):
        return
    model, tokenizer = load_encoder(export), AutoTokenizer.from_pretrained(export)
    with torch.no_grad():
        logits = model(**tokenizer("w7 w8", return_tensors="pt")).logits[0]
    expected = {VALUES: logits, LABELS: logits.sigmoid()}.get(kind, logits.softmax(-1))
    given = "none" if kind == VALUES else None
    found = pipeline("text-classification", export, top_k=None, function_to_apply=given, device="cpu")("w7 w8")
    scores = {entry["label"]: entry["score"] for entry in (found[0] if isinstance(found[0], list) else found)}
    names = [model.config.id2label[number] for number in range(len(logits))]
    assert [scores[label] for label in names] == pytest.approx(expected.tolist(), rel=1e-4)


def _run_code_of_card(export, rows):
    """The code of a card runs; it has two texts where the rows are pairs, and asks for all values of several."""
    code = (export / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    is_pair = rows["kind"] != ANSWERS and len(rows["text_columns"]) == 2
    assert ("text_pair" in code) == is_pair
    assert ("top_k=None" in code) == (rows["kind"] in (LABELS, VALUES))
    exec(code.replace('name = "."', f"name = {str(export)!r}"), {})


def _verified(finished, folder, ranks):
    assert main(["verify", str(Path(finished[1]["output_dir"]) / "student")]) == 0


def _evaluated(finished, folder, ranks):
    """`evaluate --task classes` measures classes, several labels and tags; others, and other tasks, are refused."""
    name, settings, _, _ = finished
    shutil.copytree(settings["output_dir"], folder / "run")
    words = ["evaluate", str(folder / "run"), "--eval_data", *settings["train_data"], "--task"]
    assert main([*words, "classes", "--teacher", settings["teacher"]]) == (
        2 if name == RANKED or WITH_RANKED[name][0] in (VALUES, ANSWERS) else 0
    )
    assert main([*words, "discrepancy"]) == 2


_QUICK = {"json": _by_json, "stock class": _to_a_stock_class, "pipeline": _to_a_pipeline}
_SLOW = {
    "flags": _by_flags,
    "python": _in_python,
    "unlabelled": _without_labels,
    "resumed": _resumed,
    "chain of fewer words": _as_a_chain_of_fewer_words,
    "evaluated": _evaluated,
    "verified": _verified,
}
WAYS = {**_QUICK, **_SLOW, "two ranks": _on_two_ranks}


def _started(folder, name):
    """The settings of a run that starts from a general model."""
    return write_started(folder, name, write_teacher(folder / "general", intermediate_size=24))


@pytest.fixture(scope="module")
def ranks(as_ranks, tmp_path_factory):
    """Results of two ranks, by kind, and those of `STARTED`; all in one launch."""
    folder, configs = tmp_path_factory.mktemp("ranks"), {}
    for name in (*WITH_RANKED, STARTED):
        own = folder / name.replace(" ", "_")
        settings = _started(own, "values") if name == STARTED else write_kind(own, name)
        configs[name] = own / "config.json"
        configs[name].write_text(json.dumps(settings | {"per_device_train_batch_size": 4, "save_strategy": "no"}))
    done = as_ranks(Path(__file__).parents[1] / "support" / "task_ranks.py", *configs.values())
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: json.loads((file.parent / "run" / "results.json").read_text()) for name, file in configs.items()}


@pytest.mark.slow
@pytest.mark.distributed
def test_a_general_student_fits_its_teacher_on_two_ranks_alike(ranks, tmp_path):
    alone = run(settings_of(_started(tmp_path, "values") | {"save_strategy": "no"}, "it"), lambda line: None)
    assert ranks[STARTED]["evaluation"] == pytest.approx(alone["evaluation"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "way",
    [
        *_QUICK,
        *(pytest.param(way, marks=pytest.mark.slow) for way in _SLOW),
        pytest.param("two ranks", marks=[pytest.mark.slow, pytest.mark.distributed]),
    ],
)
def test_every_kind_goes_every_way(finished, way, tmp_path, request):
    WAYS[way](finished, tmp_path, request.getfixturevalue("ranks") if way == "two ranks" else None)


def test_a_regression_behind_a_sigmoid_learns_the_scores_that_its_users_see(tmp_path):
    """A cross-encoder's scores are those of its activation, in the loss, the metrics and the code to use it."""
    settings, lines = write_kind(tmp_path, "values"), []
    activation = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    write_teacher(tmp_path / "teacher", **WITH_RANKED["values"][1], sentence_transformers=activation)
    with pytest.raises(ValueError, match=r"expected 0 to 1, as the model's values end in sigmoid: scale labels so"):
        run(settings_of(settings, "settings"), lines.append)
    rows = rows_of_kind("values")
    (label,) = set(rows.column_names) & {"label", "labels", "score"}
    rows = rows.map(lambda row: {label: 1 / (1 + math.exp(-row[label]))})
    rows.to_json(file := tmp_path / "shares.jsonl")
    results = run(settings_of(settings | {"train_data": [str(file)]}, "settings"), lines.append)
    assert any("a regression (if it ranks pairs: method=reranker), sigmoid of its output" in line for line in lines)
    assert all(0 < model["task_loss"] < 1 for model in results["models"])
    assert 'function_to_apply="sigmoid"' in (tmp_path / "run/student/README.md").read_text(encoding="utf-8")
    assert 'function_to_apply="sigmoid"' in _summary_of(settings, results)
