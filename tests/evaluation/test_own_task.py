"""A task of one's own: rows in files → a stock classifier, and what a fine-tuned teacher adds to the loss."""

import json
import re
import signal
from decimal import Decimal

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from own_rows import rows, run
from resumed_runs import sigterm_at
from safetensors.torch import load_file
from small_disk import limited_file_size
from tiny_models import VOCAB_SIZE, make_teacher, random_student, tiny_tokenizer
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
)

from homodistil_hf.cli import main
from homodistil_hf.evaluation import own_task
from homodistil_hf.evaluation.fine_tuning import (
    fresh_classifier,
    settings_from,
)
from homodistil_hf.evaluation.own_task import OwnTaskSettings, rows_of, task_metrics
from homodistil_hf.evaluation.task_data import GlueTask, read_questions
from homodistil_hf.evaluation.task_trainer import FineTuningTrainer
from homodistil_hf.export.export_folder import export_student
from homodistil_hf.export.outcome import outcome_rows
from homodistil_hf.export.run_records import read_records
from homodistil_hf.files.checkpoints import last_checkpoint, manifest_problem
from homodistil_hf.files.tensors import WEIGHTS_FILE
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForMaskedLM

pytestmark = pytest.mark.usefixtures("cache_of_the_test")


def test_a_command_makes_a_stock_classifier_that_is_what_was_measured(given, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(given))
    assert main(["finetune", str(tmp_path / "config.json"), "--num_train_epochs", "1", "--seed", "3"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["num_steps"], results["settings"]["seed"]) == (5, 3)
    model = BertForSequenceClassification.from_pretrained(tmp_path / "out" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    assert model.config.id2label == {0: "even", 1: "odd"}
    right = []
    for row in rows(16):
        with torch.no_grad():
            logits = model(**tokenizer(row["text"], return_tensors="pt")).logits
        right.append(model.config.id2label[int(logits.argmax())] == row["label"])
    assert results["metrics"]["accuracy"] == sum(right) / 16
    out, report = capsys.readouterr().out, tmp_path / "out" / "report.html"
    assert f"accuracy {sum(right) / 16:.4f}" in out
    assert out.endswith(f"\n{report}\n")
    page = report.read_text()
    assert f"<td>accuracy</td><td>{100 * sum(right) / 16:.1f} %</td></tr>" in page
    assert f"All {len(results['settings'])} settings" in page
    assert "Settings that differ" not in page
    assert "Grey: the teacher" not in page
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out" / "model").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_a_default_length_is_lowered_to_the_positions(given, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", logger="homodistil_hf")
    del given["max_length"]
    with monkeypatch.context() as patched:
        patched.setattr(own_task, "_save", save_and(interrupt))
        with pytest.raises(KeyboardInterrupt):
            run(given)
    assert json.loads((tmp_path / "out" / "training" / "settings.json").read_text())["max_length"] == 32
    assert "max_length=32, as the model reads no longer rows; the default is 128" in caplog.text
    results, _ = run(given, resume=True)
    assert results["settings"]["max_length"] == 32


def test_a_given_length_over_the_positions_is_refused(given):
    with pytest.raises(ValueError, match="max_length=128 is over the model's positions=32; .* by --max_length 32 or"):
        run(given, max_length=128)


# What stops it


def save_and(then):
    """In the place of `_save`: half of a model, and then something."""

    def save(model, tokenizer, names, folder):
        tokenizer.save_pretrained(folder)
        then()

    return save


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(("then", "status"), [(interrupt, 130), (lambda: signal.raise_signal(signal.SIGTERM), 143)])
def test_a_call_that_is_ended_leaves_nothing_half(given, tmp_path, monkeypatch, then, status):
    (tmp_path / "config.json").write_text(json.dumps(given))
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(own_task, "_save", save_and(then))
        assert status_of("finetune", tmp_path / "config.json") == status
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["training"]
    assert last_checkpoint(tmp_path / "out" / "training" / "run").name == "checkpoint-10"  # what was trained stays
    assert signal.getsignal(signal.SIGTERM) == before
    assert status_of("finetune", tmp_path / "config.json", "--resume", "true") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model", "report.html", "results.json"]
    assert manifest_problem(tmp_path / "out" / "model") is None


def status_of(command, *words):
    try:
        return main([command, *map(str, words)])
    except SystemExit as ended:
        return ended.code


TWO_RATES = {"learning_rate": None, "learning_rates": [1e-3, 3e-3], "dropout_fraction": 0.1}
"""Ten steps of each, five a pass, then ten of the better one."""


@pytest.fixture
def whole(given, tmp_path):
    """An uninterrupted run of two rates in `whole`; the settings of the same in `out`."""
    run(given, **TWO_RATES, output_dir=str(tmp_path / "whole"))
    return given | TWO_RATES


def assert_same(tmp_path):
    """What is in `out` is what is in `whole`, bit for bit."""
    found, expected = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("out", "whole"))
    for each in (found, expected):
        del each["time_s"], each["settings"]["output_dir"], each["settings"]["resume"]
    assert found == expected
    found, expected = (load_file(tmp_path / name / "model" / WEIGHTS_FILE) for name in ("out", "whole"))
    assert found.keys() == expected.keys()
    assert [name for name, tensor in found.items() if not torch.equal(tensor, expected[name])] == []


@pytest.mark.parametrize(
    "steps", [(4,), (10,), (13,), (22, 2), (25, 2)], ids=["rate 1", "its end", "rate 2", "pass 1", "end of pass 1"]
)
def test_sigterm_saves_and_the_resumed_run_is_the_same(whole, tmp_path, steps, capsys, caplog):
    (tmp_path / "config.json").write_text(json.dumps(whole))
    resume = []
    for step in steps:
        with sigterm_at(FineTuningTrainer, step):
            assert status_of("finetune", tmp_path / "config.json", *resume) == 143
        assert re.search(
            r"checkpoint-\d+ is saved; go on with the same command, for finetune with resume=true", caplog.text
        )
        assert "ended by SIGTERM" in capsys.readouterr().err
        resume = ["--resume", "true"]
    with sigterm_at(FineTuningTrainer, None) as seen:
        assert status_of("finetune", tmp_path / "config.json", *resume) == 0
    assert len(seen) == 30 - sum(steps)
    assert_same(tmp_path)


def test_beside_a_teacher_a_resumed_run_is_the_same(given, tmp_path):
    alone, _ = run(given, output_dir=str(tmp_path / "teacher"))
    given |= {"teacher": str(tmp_path / "teacher" / "model")}
    whole, _ = run(given, output_dir=str(tmp_path / "whole"))
    assert whole["teacher_metrics"] == alone["metrics"]
    with sigterm_at(FineTuningTrainer, 7), pytest.raises(SystemExit, match="143"):
        run(given)
    run(given, resume=True)
    assert_same(tmp_path)


@pytest.mark.parametrize("file", ["optimizer.pt", "manifest.json"])
def test_a_damaged_checkpoint_is_told_and_passed_over(whole, tmp_path, file, caplog):
    with sigterm_at(FineTuningTrainer, 27), pytest.raises(SystemExit, match="143"):
        run(whole)
    checkpoint = last_checkpoint(tmp_path / "out" / "training" / "run")
    (checkpoint / file).write_bytes(b"0")
    run(whole, resume=True)
    assert f"{checkpoint} can't be used and is passed over: {file} is damaged" in caplog.text
    assert_same(tmp_path)


def test_a_run_that_was_stopped_is_neither_overwritten_nor_continued_otherwise(whole, tmp_path, monkeypatch):
    with sigterm_at(FineTuningTrainer, 4), pytest.raises(SystemExit, match="143"):
        run(whole)
    with pytest.raises(
        ValueError, match=r"out' holds a fine-tuning that was stopped; set resume, or name another fol"
    ):
        run(whole)
    with pytest.raises(
        ValueError, match="seed=3 is not what the run in output_dir=.* began with, 0; resume with that"
    ):
        run(whole, resume=True, seed=3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE=2: this is for one process; start it without torchrun"):
        run(whole, resume=True)


def test_a_disk_that_is_full_is_told_and_refuses_no_later_call(given, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text(json.dumps(given))
    save = own_task._save

    def full(*args):
        with limited_file_size(4096):
            save(*args)

    with monkeypatch.context() as patched:
        patched.setattr(own_task, "_save", full)
        assert status_of("finetune", tmp_path / "config.json") == 2
    message = capsys.readouterr().err
    assert re.search(
        r"File too large; \S*out/model was not written\. Make room, then go on with resume=true.*model\.safetensors",
        message,
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["training"]
    assert status_of("finetune", tmp_path / "config.json", "--resume", "true") == 0


def test_a_compact_student_becomes_a_stock_classifier(given, tmp_path):
    student = random_student(HomoBertForMaskedLM, vocab_size=VOCAB_SIZE)
    export_student(student, tmp_path / "compact", "compact", tokenizer=tiny_tokenizer())
    results, _ = run(given, model=str(tmp_path / "compact"))
    model = BertForSequenceClassification.from_pretrained(tmp_path / "out" / "model")
    assert (model.config.model_type, len(results["metrics"])) == ("bert", 2)


def test_fractions_are_a_regression(given, tmp_path):
    for name, num_rows in (("train", 40), ("dev", 16)):
        rows(num_rows, label=lambda word: word / 10).to_csv(tmp_path / f"{name}.csv", index=False)
    files = {"train_data": str(tmp_path / "train.csv"), "eval_data": str(tmp_path / "dev.csv")}
    results, _ = run(given, **files)
    assert results["metrics"].keys() == {"pearson"}
    model = BertForSequenceClassification.from_pretrained(tmp_path / "out" / "model")
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")


# Labels


def rows_from(given, tmp_path, train, dev=None, suffix=".csv"):
    """Rows as they are read of files that hold these columns."""
    paths = {}
    for name, columns in (("train_data", train), ("eval_data", dev or train)):
        found = columns if isinstance(columns, Dataset) else Dataset.from_dict({"text": ["w5 w6"] * 8} | columns)
        paths[name] = str(tmp_path / f"own-{name}{suffix if isinstance(columns, dict) else '.parquet'}")
        if paths[name].endswith(".csv"):
            found.to_csv(paths[name], index=False)
        else:
            found.to_parquet(paths[name])
    return rows_of(settings_from(OwnTaskSettings, {**given, **paths}))


def named(labels=(0, 1) * 4, names=("pos", "neg")):
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    return Dataset.from_dict({"text": ["w5 w6"] * 8, "label": list(labels)}, features=features)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_whole_numbers_with_a_point_are_classes(given, tmp_path, suffix, caplog):
    train, dev, names = rows_from(given, tmp_path, {"label": [0.0, 1.0] * 4}, {"label": [1.0, 0.0] * 4}, suffix)
    assert (train["label"][:2], dev["label"][:2], names) == ([0, 1], [1, 0], ["0", "1"])
    assert "label has whole numbers such as 0.0; they are classes" in caplog.text
    results, _ = run(given, **{name: str(tmp_path / f"own-{name}{suffix}") for name in ("train_data", "eval_data")})
    assert results["metrics"].keys() == {"accuracy", "macro_f1"}


def test_whole_numbers_beside_fractions_are_a_regression(given, tmp_path):
    train, dev, names = rows_from(given, tmp_path, {"label": [0, 1] * 4}, {"label": [0.5, 1.0] * 4})
    assert (train["label"][:2], dev["label"][:2], names) == ([0.0, 1.0], [0.5, 1.0], [])
    decimals = {"label": [Decimal("0.5"), Decimal("2.0")] * 4}
    train, _, names = rows_from(given, tmp_path, decimals, suffix=".parquet")
    assert (train["label"][:2], names) == ([0.5, 2.0], [])


@pytest.mark.parametrize(
    ("train", "dev", "suffix"),
    [
        ([0.0, 0.5, 1.0, 2.0], [0.0, 1.0, 3.0, 7.0], ".csv"),
        ([0.0, 1.0, 2.0, 3.0], [0.5, 1.0, 1.0, 2.0], ".parquet"),
        ([Decimal("1.0"), Decimal("2.0")] * 2, [Decimal("0.5"), Decimal("1.0")] * 2, ".parquet"),
    ],
)
def test_whole_numbers_of_a_regression_are_not_called_classes(given, tmp_path, caplog, train, dev, suffix):
    _, _, names = rows_from(given, tmp_path, {"label": train * 2}, {"label": dev * 2}, suffix)
    assert names == []
    assert caplog.text == ""


def test_fractions_for_names_are_not_called_whole_numbers(given, tmp_path, caplog):
    names = {"label": ["0.5", "1.0"] * 4}
    assert rows_from(given, tmp_path, names, {"label": [1.0, 0.5] * 4}, ".parquet")[2] == ["0.5", "1.0"]
    assert caplog.text == ""


def test_numbers_that_no_class_has_are_refused_without_a_warning(given, tmp_path, caplog):
    with pytest.raises(ValueError, match="eval_data has the label 3, which train_data never has"):
        rows_from(given, tmp_path, {"label": [0.0, 1.0] * 4}, {"label": [0.0, 3.0] * 4})
    assert caplog.text == ""


def misspelt(count, place=6):
    """Labels of two names, one of them misspelt at a place."""
    labels = ["negative", "positive"] * (count // 2)
    return {"text": ["w5 w6"] * count, "label": [*labels[:place], "postive", *labels[place + 1 :]]}


def test_a_misspelt_label_is_seen_before_training(given, tmp_path, caplog):
    caplog.set_level("INFO", logger="homodistil_hf")
    rows_from(given, tmp_path, misspelt(200), {"label": ["negative", "positive"] * 4})
    assert "3 classes: negative 99, positive 100, postive 1" in caplog.text
    assert "few rows, or none of eval_data, have the class 'postive' (1 row, the first is row 7 of" in caplog.text
    assert "of train_data, 0 of eval_data); correct or drop them, or add rows" in caplog.text
    caplog.clear()
    rows_from(given, tmp_path, misspelt(200), misspelt(8))  # rare beside the others, though both files have it
    assert "the class 'postive' (1 row, the first is row 7 of train_data, 1 of eval_data)" in caplog.text


def test_of_many_classes_ten_are_shown_and_few_rows_of_each_are_no_reason_to_warn(given, tmp_path, caplog):
    caplog.set_level("INFO", logger="homodistil_hf")
    rows_from(given, tmp_path, {"text": ["w5 w6"] * 12, "label": [f"c{number:02}" for number in range(12)]})
    assert "12 classes: c00 1, " in caplog.text
    assert caplog.text.rstrip().endswith("c09 1, …")


def test_a_misspelt_label_of_the_evaluation_names_its_rows(given, tmp_path):
    message = r"eval_data has the label 'postive', which .* \(1 row, the first is row 7\); correct or drop them"
    with pytest.raises(ValueError, match=message):
        rows_from(given, tmp_path, {"label": ["negative", "positive"] * 4}, misspelt(8))


def test_names_of_a_feature_are_the_classes_in_its_order(given, tmp_path):
    train, dev, names = rows_from(given, tmp_path, named(), {"label": ["neg", "pos"] * 4})
    assert (train["label"][:2], dev["label"][:2], names) == ([0, 1], [1, 0], ["pos", "neg"])
    # A file without the feature may have its numbers.
    for train, dev in ((named(), {"label": [1, 0] * 4}), ({"label": [0, 1] * 4}, named((1, 0) * 4))):
        train, dev, names = rows_from(given, tmp_path, train, dev)
        assert (train["label"][:2], dev["label"][:2], names) == ([0, 1], [1, 0], ["pos", "neg"])


@pytest.mark.parametrize("labels", [("pos", "neg"), ("0", "1"), ("LABEL_0", "LABEL_1")])
def test_a_teacher_has_a_features_names_or_their_numbers(given, tmp_path, labels):
    teacher = fresh_classifier(make_teacher().base_model, 2, dropout=0.0, seed=0)
    teacher.config.id2label = dict(enumerate(labels))
    teacher.save_pretrained(tmp_path / "teacher")
    rows_from(given, tmp_path, named())
    files = {name: str(tmp_path / f"own-{name}.parquet") for name in ("train_data", "eval_data")}
    run(given, teacher=str(tmp_path / "teacher"), **files)
    model = BertForSequenceClassification.from_pretrained(tmp_path / "out" / "model")
    assert model.config.id2label == {0: "pos", 1: "neg"}


def test_words_for_nothing_are_names_and_texts_like_others(given, tmp_path):
    columns = {"text": ["null", "NA", "None", "007"] * 2, "label": ["null", "NA", "None", "n/a"] * 2}
    train, _, names = rows_from(given, tmp_path, columns)
    assert (train["text"][:4], names) == (["null", "NA", "None", "007"], ["NA", "None", "n/a", "null"])
    assert train["label"][:4] == [3, 0, 1, 2]


def test_other_columns_of_a_file_need_no_type(given, tmp_path):
    texts = [f"w{5 + number % 90}" for number in range(20_002)]
    columns = {"text": texts, "label": ["a", "b"] * 10_001, "other": [*range(20_001), "NA"]}
    train, dev = (tmp_path / name for name in ("train.csv", "eval.csv"))
    for path in (train, dev):
        path.write_text("\n".join(",".join(map(str, row)) for row in [columns, *zip(*columns.values(), strict=True)]))
    read, _, names = rows_of(
        settings_from(OwnTaskSettings, {**given, "train_data": str(train), "eval_data": str(dev)})
    )
    assert (read["text"][:], read["label"][-1], names) == (texts, 1, ["a", "b"])
    train.write_text("text,label\nw5,a\nw6\n" + "w7,b\n" * 8)
    with pytest.raises(ValueError, match="has rows without 'label'; drop them"):
        rows_of(settings_from(OwnTaskSettings, {**given, "train_data": str(train), "eval_data": str(dev)}))
    train.write_text("")
    with pytest.raises(ValueError, match="is unreadable"):
        rows_of(settings_from(OwnTaskSettings, {**given, "train_data": str(train), "eval_data": str(dev)}))


def test_rows_of_json_are_read_in_every_form(given, tmp_path):
    table = [{"text": f"w{n}", "label": "ab"[n % 2], "x": [n, "y"][n % 2]} for n in range(5, 13)]
    lines = "\n".join(map(json.dumps, table))
    for name, text in {"a.json": lines, "b.json": json.dumps(table), "c.json": json.dumps({"data": table})}.items():
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        paths = dict.fromkeys(("train_data", "eval_data"), str(tmp_path / name))
        train, _, names = rows_of(settings_from(OwnTaskSettings, {**given, **paths}))
        assert (train["text"][7], train["label"][:3], names) == ("w12", [1, 0, 1], ["a", "b"])


@pytest.mark.parametrize("depth", [200, 100_000])
def test_rows_that_are_nested_deeply_are_refused(given, tmp_path, depth):
    (tmp_path / "deep.json").write_text('[{"text": ' + "[" * depth + "]" * depth + ', "label": 1}]')
    with pytest.raises(ValueError, match="has lists in 'text'|nested too deeply|has values of other types in 'text'"):
        rows_of(settings_from(OwnTaskSettings, {**given, "train_data": str(tmp_path / "deep.json")}))


@pytest.mark.parametrize("argument", ["train_data", "eval_data"])
def test_a_home_folder_of_nobody_holds_no_rows(given, argument):
    path = "~no_such_user_here/rows.csv"
    with pytest.raises(ValueError, match=f"^{argument}='{path}' is no file of .parquet"):
        rows_of(settings_from(OwnTaskSettings, {**given, argument: path}))
    with pytest.raises(ValueError, match="^train_data='~no_such_user_here/rows.json' is no file of .parquet"):
        read_questions("~no_such_user_here/rows.json", argument="train_data")


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("missing", ["text_columns", "label_column"])
def test_columns_that_a_file_has_are_named_beside_one_that_it_lacks(given, tmp_path, suffix, missing):
    columns = {"sentence": ["w5"] * 8, "label": ["a", "b"] * 4, "n": [1] * 8, "x" * 1000: [1] * 8}
    columns |= {"text": columns["sentence"]} if missing == "label_column" else {}
    found, path = Dataset.from_dict(columns), tmp_path / f"own.{suffix}"
    {"csv": found.to_csv, "parquet": found.to_parquet}.get(suffix, found.to_json)(path)
    names = {missing: "other", "train_data": str(path)}
    known = r"'label', 'n', 'sentence' and \d more$"
    with pytest.raises(ValueError, match=f"^train_data=.* lacks the column 'other'; name text_col.*; it has {known}"):
        rows_of(settings_from(OwnTaskSettings, {**given, **names}))


def test_a_long_name_of_a_column_is_told_in_short(given):
    with pytest.raises(ValueError, match="lacks the column") as error:
        rows_of(settings_from(OwnTaskSettings, {**given, "label_column": "x" * 10_000}))
    assert len(str(error.value)) < 1000


def test_booleans_are_two_classes_however_they_are_written(given, tmp_path):
    for labels in ([True, False] * 4, ["true", "false"] * 4):
        train, _, names = rows_from(given, tmp_path, {"label": labels})
        assert (train["label"][:2], names) == ([1, 0], ["False", "True"])


@pytest.mark.parametrize(
    ("columns", "suffix", "message"),
    [
        ({"label": ["0.5", "NA"] * 4}, ".csv", "has rows with label='NA' beside numbers; drop them"),
        ({"label": ["1", "null"] * 4}, ".csv", "has rows with label='null' beside numbers; drop them"),
        ({"label": ["yes", ""] * 4}, ".csv", "has rows without 'label'; drop them"),
        ({"label": [0.5, float("nan")] * 4}, ".parquet", "train_data has rows with label=nan; drop them"),
        ({"label": [[0, 1]] * 8}, ".parquet", "has lists in 'label'; expected one text or label a row"),
        ({"text": [["a", "b"]] * 8, "label": [0, 1] * 4}, ".parquet", "has lists in 'text'; expected one text or"),
        (named((0, -1) * 4), ".parquet", "train_data has rows with label=-1, which is none of its classes; drop them"),
        ({"label": [1.0] * 8}, ".csv", "train_data has the one label 1; expected two or more"),
    ],
)
def test_labels_that_say_nothing_are_refused(given, tmp_path, columns, suffix, message):
    with pytest.raises(ValueError, match=message):
        rows_from(given, tmp_path, columns, suffix=suffix)


def test_labels_that_one_file_has_alone_are_refused(given, tmp_path):
    for columns in ({"label": ["pos", "other"] * 4}, {"label": [0, 2] * 4}, {"label": [0.5, 1.0] * 4}):
        with pytest.raises(
            ValueError, match="eval_data has the label .*, which train_data never has .*; correct or drop them"
        ):
            rows_from(given, tmp_path, named(), columns)
        with pytest.raises(
            ValueError, match="train_data has the label .*, which eval_data never has .*; correct or drop them"
        ):
            rows_from(given, tmp_path, columns, named())


def test_a_teacher_of_values_does_not_fit_rows_of_classes(given, tmp_path):
    make_teacher("sequence_classification", problem_type="regression").save_pretrained(tmp_path / "teacher")
    rows_from(given, tmp_path, {"label": [0, 1] * 4}, suffix=".parquet")
    files = {name: str(tmp_path / f"own-{name}.parquet") for name in ("train_data", "eval_data")}
    with pytest.raises(
        ValueError, match="teacher has problem_type='regression', the rows are for 'single_label_class"
    ):
        run(given, teacher=str(tmp_path / "teacher"), **files)


def test_the_best_rate_on_held_out_rows_is_taken(given):
    rates = {"learning_rate": None, "learning_rates": [1e-5, 1e-2]}
    results, lines = run(given, **rates, num_train_epochs=None, max_train_steps=40)
    assert lines.pop(0) == "trying 2 learning rates, 40 steps each"
    assert lines.pop() == f"training at learning rate {results['learning_rate']:g}: 40 steps on 40 rows"
    assert [line.partition(": training")[0] for line in lines[::2]] == ["rate 1 of 2, 1e-05", "rate 2 of 2, 0.01"]
    scores = {float(line.split(", ")[1].split(":")[0]): float(line.split("accuracy ")[1][:6]) for line in lines[1::2]}
    assert scores.keys() == {1e-5, 1e-2}
    assert results["learning_rate"] == max(scores, key=lambda rate: scores[rate])
    assert results["num_steps"] == 40


@pytest.mark.parametrize(("labels", "is_told"), [([0, 1] * 8, True), ([0] * 16, False)])
def test_one_class_for_all_rows_is_told(labels, is_told, given, caplog):
    model = make_teacher("sequence_classification")
    model.classifier.weight.data.zero_()
    found = rows(16).remove_columns("label").add_column("label", labels)
    task = GlueTask("own", ("text",), num_labels=2)
    task_metrics(model, found, task, AutoTokenizer.from_pretrained(given["model"]), max_length=24)
    assert ("all 16 rows get one class; lower learning_rate" in caplog.text) == is_told


def test_a_student_learns_from_a_fine_tuned_teacher(given, tmp_path):
    run(given, output_dir=str(tmp_path / "teacher"))
    results, _ = run(given, teacher=str(tmp_path / "teacher" / "model"))
    full, own = results["teacher_metrics"]["accuracy"], results["metrics"]["accuracy"]
    row = next(row for row in outcome_rows(read_records(tmp_path / "out").facts) if row.name == "accuracy")
    assert row[2:] == (f"{100 * full:.1f} %", f"{100 * own:.1f} %", f"{100 * own / full:.0f} %")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "out" / "model")
    assert not [name for name in model.state_dict() if "projections" in name]


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_ones_own_called_training_is_left_alone(given, tmp_path, resume):
    own = tmp_path / "out" / "training" / "rows.csv"
    own.parent.mkdir(parents=True)
    own.write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="^output_dir=.* holds training/, which no fine-tuning wrote and which would"):
        run(given, resume=resume)
    assert own.read_text(encoding="utf-8") == "mine"
