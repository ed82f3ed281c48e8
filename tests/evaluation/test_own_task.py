"""A task of one's own: rows in files → a stock classifier; beside a teacher the run of `homodistil distill`."""

import json
import re
import signal

import pytest
import torch
from own_rows import rows, run
from resumed_runs import sigterm_at
from rows import each
from tiny_files import assert_same_weights, change_json
from tiny_models import VOCAB_SIZE, random_student, randomized, tiny_tokenizer
from transformers import AutoTokenizer, BertForMaskedLM, BertForSequenceClassification, PreTrainedTokenizerBase

from homodistil_hf.cli import main
from homodistil_hf.cli.finetune import run_beside_teacher
from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.evaluation.fine_tuning import FineTuningTrainer, OwnTaskSettings, check_start
from homodistil_hf.export.export_folder import export_student
from homodistil_hf.files.checkpoints import last_checkpoint, manifest_problem
from homodistil_hf.methods.binarization.stages import BinarizationSettings
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForMaskedLM
from homodistil_hf.models.heads import fastest_device
from homodistil_hf.models.loading import load_encoder

pytestmark = pytest.mark.slow


def test_a_command_makes_a_stock_classifier_that_is_what_was_measured(given, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(given))
    assert main(["finetune", str(tmp_path / "config.json"), "--num_train_epochs", "1", "--seed", "3"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["num_steps"], results["settings"]["seed"]) == (5, 3)
    assert (results["settings"]["text_columns"], results["settings"]["label_column"]) == (["text"], "label")
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
    assert out.endswith(f"\nall held-out answers, or all labels, are alike; {report}\n")
    page = report.read_text()
    assert f"<td>accuracy</td><td>{100 * sum(right) / 16:.1f} %</td></tr>" in page
    assert "Settings that differ" not in page
    assert "Grey: the teacher" not in page
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out" / "model").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_a_model_that_gives_one_answer_is_told_in_its_results(given, tmp_path):
    rows(16).map(lambda row: {"text": "w5 w6"}).to_json(given["eval_data"])
    assert run(given | {"num_train_epochs": 1.0})[0]["is_constant"]
    assert "is_constant" not in json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]


def test_the_folder_of_another_run_is_refused(given, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("{}")
    with pytest.raises(ValueError, match=r"out' holds another run \(results.json\); name another folder"):
        run(given)


def test_by_default_rows_are_not_cut(given, tmp_path):
    del given["max_length"]
    longest = max(len(row["text"].split()) for row in rows(40)) + 2
    with sigterm_at(FineTuningTrainer, 2), pytest.raises(SystemExit, match="143"):
        run(given)
    results, lines = run(given, resume=True)
    assert results["settings"]["max_length"] == max(16, -(-longest // 8) * 8)
    assert (
        f"max_length={results['settings']['max_length']}: 99 of 100 rows fit, longer ones are cut; 32 are possible"
        in lines
    )


@each("is_of_sentences", [False, True])
def test_an_encoder_without_a_head_gets_a_fresh_one_as_a_masked_one_does(given, tmp_path, is_of_sentences):
    encoder = BertForMaskedLM.from_pretrained(given["model"]).bert
    encoder.save_pretrained(tmp_path / "encoder")
    tiny_tokenizer().save_pretrained(tmp_path / "encoder")
    if is_of_sentences:  # some of these name the head that the encoder once had; a student's has facts of vectors
        (tmp_path / "encoder" / "modules.json").write_text("[]")
        (tmp_path / "encoder" / "facts.json").write_text('{"format": 1}')
        change_json(tmp_path / "encoder" / "config.json", architectures=["BertForMaskedLM"])
    given = given | {"max_train_steps": 2}
    masked, _ = run(given, output_dir=str(tmp_path / "masked"))
    results, lines = run(given, model=str(tmp_path / "encoder"), output_dir=str(tmp_path / "out"))
    left = "; its pooling and prompts are left out" * is_of_sentences
    assert lines[0].endswith(f"is a BertModel, an encoder without a head: it gets a fresh one for the labels{left}")
    assert results["metrics"] == masked["metrics"]
    assert_same_weights(tmp_path / "out" / "model", tmp_path / "masked" / "model")


# What stops it


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_call_that_is_ended_leaves_nothing_half(given, tmp_path, monkeypatch, number, status):
    (tmp_path / "config.json").write_text(json.dumps(given))
    before = signal.getsignal(signal.SIGTERM)

    def stop(tokenizer, folder, **how):
        if "training" not in str(folder):  # the model is written, its tokenizer isn't
            signal.raise_signal(number)

    of_sigint = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background have it ignored
    with monkeypatch.context() as patched:
        patched.setattr(PreTrainedTokenizerBase, "save_pretrained", stop)
        assert status_of("finetune", tmp_path / "config.json") == status
    signal.signal(signal.SIGINT, of_sigint)
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
    for one in (found, expected):
        del one["time_s"], one["settings"]["output_dir"], one["settings"]["resume"]
    assert found == expected
    assert_same_weights(tmp_path / "out" / "model", tmp_path / "whole" / "model")


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


def test_a_stopped_fine_tuning_goes_on_with_the_model_and_rows_that_it_began_with(whole, tmp_path):
    with sigterm_at(FineTuningTrainer, 1), pytest.raises(SystemExit, match="143"):
        run(whole)
    others = {"even": "odd", "odd": "even"}
    rows(40).map(lambda row: {"label": others[row["label"]]}).to_parquet(whole["train_data"])
    with pytest.raises(ValueError, match="^rows='.* is not what the run in output_dir=.* began with"):
        run(whole, resume=True)
    rows(40).to_parquet(whole["train_data"])
    model = load_encoder(whole["model"])
    randomized(model, seed=9).save_pretrained(whole["model"])
    with pytest.raises(ValueError, match="has other weights than when the run in output_dir=.* began; resume with"):
        run(whole, resume=True)


def test_a_finished_run_that_is_resumed_ends_as_it_ended(given, tmp_path, capsys):
    once = given | {"learning_rates": [1e-3], "learning_rate": None, "num_train_epochs": None, "max_train_steps": 2}
    results, _ = run(once)
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "out" / "training").mkdir()  # killed before it was removed
    again, lines = run(once, resume=True)
    assert json.loads(json.dumps(results)) == again
    assert lines == [f"{tmp_path / 'out' / 'model'} is there already: the run has ended, and nothing is left to do"]
    assert files == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert not (tmp_path / "out" / "training").exists()
    (tmp_path / "config.json").write_text(json.dumps(once))
    capsys.readouterr()
    assert status_of("finetune", tmp_path / "config.json", "--resume", "true") == 0
    assert re.search(rf"accuracy .* on 16 rows: {tmp_path}/out/model", capsys.readouterr().out)
    blank = {"label_column": f" {again['settings']['label_column']} "}
    assert run(once | blank, resume=True)[0] == again
    with pytest.raises(ValueError, match="^seed=7 is not what the run in output_dir=.* began with, 0; resume with"):
        run(once, resume=True, seed=7)
    with pytest.raises(ValueError, match="holds model/ already; name another folder"):
        run(once)


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
    assert results["metrics"].keys() == {"pearson", "spearman"}
    model = BertForSequenceClassification.from_pretrained(tmp_path / "out" / "model")
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")


@pytest.mark.parametrize(("divisor", "how"), [(1, "drawn label by label"), (10, "spread over their values")])
def test_without_others_rows_are_kept_aside(given, tmp_path, caplog, divisor, how):
    caplog.set_level("INFO")
    rows(40, label=lambda word: word if divisor == 1 else word / divisor).to_csv(tmp_path / "rows.csv", index=False)
    results, _ = run(given, train_data=str(tmp_path / "rows.csv"), eval_data=None)
    counts = results["num_train_rows"], results["num_eval_rows"]
    assert sum(counts) == 40
    assert counts[1] >= 4
    assert f"eval_data is not set: {counts[1]} of 40 rows of train_data are kept aside, {how}" in caplog.text


def test_the_best_rate_on_held_out_rows_is_taken(given):
    rates = {"learning_rate": None, "learning_rates": [1e-5, 1e-2]}
    results, lines = run(given, **rates, num_train_epochs=None, max_train_steps=40)
    read = "rows: 40 to train on, 16 held out, 56 with labels, 6 tokens at the median; read: text, label"
    assert lines.pop(0) == read
    assert lines.pop(0) == "trying 2 learning rates, 40 steps each at most"
    assert lines.pop() == f"learning rate {results['learning_rate']:g} it is"
    found = [
        re.fullmatch(r"learning rate (.*): accuracy (.*), macro_f1 .* on 4 rows held out .*", line) for line in lines
    ]
    scores = {float(one[1]): float(one[2]) for one in found}
    assert scores.keys() == {1e-5, 1e-2}
    assert results["learning_rate"] == max(scores, key=lambda rate: scores[rate])
    assert results["num_steps"] == 40


def test_beside_a_teacher_both_commands_are_one_run(given, tmp_path, capsys):
    run(given, output_dir=str(tmp_path / "teacher"))
    teacher, out = str(tmp_path / "teacher" / "model"), tmp_path / "out"
    (tmp_path / "config.json").write_text(json.dumps(given))
    assert main(["finetune", str(tmp_path / "config.json"), "--teacher", teacher]) == 0
    assert capsys.readouterr().out.endswith(f"{out / 'report.html'}\n")
    words = ["--teacher", teacher, "--start", given["model"], "--output_dir", str(tmp_path / "other")]
    words += ["--train_data", given["train_data"], "--eval_data", given["eval_data"], "--max_seq_length", "24"]
    words += ["--per_device_train_batch_size", "8", "--learning_rate", "1e-3", "--num_train_epochs", "2"]
    assert main(["distill", *words]) == 0
    assert_same_weights(out / "student", tmp_path / "other" / "student")
    found, expected = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("out", "other"))
    assert found["evaluation"] == expected["evaluation"]
    assert found["models"] == expected["models"]
    model = BertForSequenceClassification.from_pretrained(out / "student")
    assert model.config.id2label == {0: "even", 1: "odd"}


@pytest.mark.parametrize(
    ("changes", "run_of_both"),
    [
        ({}, {}),
        ({"max_train_steps": 7, "dropout_fraction": 0.2}, {"max_steps": 7, "student_dropout": 0.2}),
        ({"warmup_fraction": 0.2, "batch_size": 4}, {"warmup_steps": 0.2, "per_device_train_batch_size": 4}),
        ({"dtype": "bfloat16", "resume": True}, {"bf16": True, "resume_from_checkpoint": "last"}),
        ({"text_columns": ["a", "b"], "max_length": 16}, {"text_columns": ["a", "b"], "max_seq_length": 16}),
        ({"dtype": "auto"}, {"bf16": multiplies_bfloat16(fastest_device())}),
        # defaults of a fine-tuning, which are none of a run
        ({"seed": 0, "batch_size": 32}, {"seed": 0, "per_device_train_batch_size": 32}),
    ],
)
def test_settings_of_a_fine_tuning_are_those_of_a_run(changes, run_of_both):
    paths = {"model": "m", "teacher": "t", "train_data": "rows.csv", "output_dir": "out"}
    expected = {"start": "m", "teacher": "t", "train_data": ["rows.csv"], "output_dir": "out"} | run_of_both
    assert run_beside_teacher(paths | changes) == expected


def test_passes_and_steps_exclude_each_other_beside_a_teacher():
    with pytest.raises(
        ValueError, match="num_train_epochs=1.0 with max_train_steps=50 has no place beside teacher='t'"
    ):
        run_beside_teacher({"teacher": "t", "num_train_epochs": 1.0, "max_train_steps": 50})


@pytest.mark.parametrize("kind", [OwnTaskSettings, BinarizationSettings])
def test_blanks_between_columns_are_no_other_settings(kind, tmp_path):
    given = {"model": "m", "train_data": "rows.csv", "output_dir": "out"}
    settings, record = kind(**given, label_column="joy, fear"), tmp_path / "settings.json"
    assert settings.label_column == "joy,fear"
    record.write_text(json.dumps(start := check_start(record, settings)))
    assert check_start(record, settings) == start
    change_json(record, label_column="joy, fear")  # as earlier versions wrote it
    assert check_start(record, settings) == start
    with pytest.raises(ValueError, match="^label_column='joy' is not what the run in output_dir='out' began with"):
        check_start(record, kind(**given, label_column="joy"))


def test_a_default_that_is_named_beside_a_teacher_counts(given, tmp_path, capsys):
    run(given, output_dir=str(tmp_path / "teacher"))
    given |= {"max_train_steps": 2, "num_train_epochs": None}
    (tmp_path / "config.json").write_text(json.dumps(given))
    words = ["finetune", str(tmp_path / "config.json"), "--teacher", str(tmp_path / "teacher" / "model")]
    for name, flags in {"default": [], "named": ["--seed", "0", "--dropout_fraction", "0.1"]}.items():
        assert main([*words, "--output_dir", str(tmp_path / name), *flags]) == 0
    default, named = (
        json.loads((tmp_path / name / "results.json").read_text())["settings"] for name in ("default", "named")
    )
    assert "seed" not in default
    assert (named["seed"], named["student_dropout"]) == (0, 0.1)


@pytest.mark.parametrize(("name", "value"), [("learning_rates", [1e-3, 3e-3]), ("max_train_samples", 8)])
def test_what_a_run_beside_a_teacher_has_not_names_the_other_command(given, tmp_path, name, value, capsys):
    (tmp_path / "config.json").write_text(json.dumps({**given, "learning_rate": None, name: value}))
    assert main(["finetune", str(tmp_path / "config.json"), "--teacher", "t"]) == 2
    assert f"{name}=" in (told := capsys.readouterr().err)
    assert "this is the run of homodistil distill --start" in told


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_ones_own_called_training_is_left_alone(given, tmp_path, resume):
    own = tmp_path / "out" / "training" / "rows.csv"
    own.parent.mkdir(parents=True)
    own.write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="^output_dir=.* holds training/, which no fine-tuning wrote and which would"):
        run(given, resume=resume)
    assert own.read_text(encoding="utf-8") == "mine"
