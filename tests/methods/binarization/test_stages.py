"""Chains of binarization on a task's rows."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import error_of
from datasets import Dataset
from resumed_runs import sigterm_at
from rows import each
from safetensors.torch import load_file
from task_rows import rows_of_kind
from tiny_files import own_cache, write_teacher
from tiny_models import make_blocks, make_teacher, randomized
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
)

from homodistil_hf.cli import main
from homodistil_hf.evaluation.fine_tuning import OwnTaskSettings, fine_tune_own
from homodistil_hf.export.facts import read_facts
from homodistil_hf.export.report import closing_line, write_report
from homodistil_hf.files.checkpoints import last_checkpoint, manifest_problem
from homodistil_hf.methods.binarization.binarizing import calibrate, to_binary
from homodistil_hf.methods.binarization.stages import (
    PAPER,
    BinarizationArguments,
    BinarizationSettings,
    BinarizationTrainer,
    binarize_chain,
)
from homodistil_hf.runs.config import run_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A task's rows and a model that was fine-tuned on them, which no test changes."""
    folder = tmp_path_factory.mktemp("task")
    found = {"text": [f"w{5 + i % 40} w{6 + i % 50} w9" for i in range(64)], "label": [i % 2 for i in range(64)]}
    Dataset.from_dict(found).to_parquet(folder / "rows.parquet")
    teacher = write_teacher(folder / "teacher", max_position_embeddings=128)
    own_steps = {"learning_rate": 1e-3, "max_train_steps": 4, "max_length": 16, "batch_size": 16}
    data = {name: str(folder / "rows.parquet") for name in ("train_data", "eval_data")}
    with pytest.MonkeyPatch.context() as patch:
        own_cache(patch, folder / "cache")
        fine_tune_own(
            OwnTaskSettings(model=str(teacher), output_dir=str(folder / "float"), **data, **own_steps), print
        )
    return {"model": str(folder / "float" / "model"), "stages": (2, 1), **data, **own_steps}


def chain_of(folder, rows):
    return binarize_chain(BinarizationSettings(output_dir=str(folder / "run"), **rows), lambda line: None)


def test_a_chain_ends_in_bits(rows, tmp_path, capsys):
    said = []
    results = binarize_chain(BinarizationSettings(output_dir=str(tmp_path / "run"), **rows), said.append)
    assert [results[f"stage-{number}"]["activation_bits"] for number in (1, 2)] == [2, 1]
    assert len(said) == 4  # rows, the float model and two stages
    assert json.loads((tmp_path / "run" / "results.json").read_text())["size_bytes"] == results["size_bytes"]
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "| 1-bit activations | " in card
    assert main(["push", str(tmp_path / "run"), "me/bits", "--dry_run"]) == 0
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "copy")]) == 2
    assert "is a model of bits, which has one form alone: copy" in capsys.readouterr().err
    assert "Binarized beside `float`" in card
    write_report(tmp_path / "run")
    assert "homodistil deploy" not in (tmp_path / "run" / "report.html").read_text()
    smaller, page = re.split("; ", closing_line(tmp_path / "run"))  # its teacher answers one class
    assert read_facts(tmp_path / "run" / "model")["teacher_evaluation"]["is_constant"]
    assert read_facts(tmp_path / "run" / "model")["data"]["num_held_out_rows"] == 64
    float_bytes = 4 * sum(tensor.numel() for tensor in load_file(f"{rows['model']}/model.safetensors").values())
    times = f"{float_bytes / results['size_bytes']:.2g}×"
    assert smaller == f"{times} smaller, but all held-out answers, or all labels, are alike"
    assert "held out: " not in Path(page).read_text()  # stages are evaluated at their ends alone
    stored = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert stored["bert.encoder.layer.0.output.dense.packed"].dtype == torch.uint8
    assert not any(name.endswith("output.dense.weight") for name in stored)


@each("labels", [None, [None] * 32, [0, 1] * 8 + [None] * 16])
def test_rows_need_no_labels(rows, labels, tmp_path):
    """The loss has none; rows without, with some and with all labels make the same student."""
    texts = {"text": [f"w{5 + i % 40} w{6 + i % 50} w9" for i in range(32)]}
    weights = []
    for name, found in (("some", texts | ({} if labels is None else {"label": labels})), ("all", texts | LABELS)):
        Dataset.from_dict(found).to_parquet(tmp_path / f"{name}.parquet")
        given = rows | {"train_data": str(tmp_path / f"{name}.parquet"), "stages": (1,)}
        chain_of(tmp_path / name, given)
        weights.append(load_file(tmp_path / name / "run" / "model" / "model.safetensors"))
    assert all(weights[0][name].equal(tensor) for name, tensor in weights[1].items())


LABELS = {"label": [0, 1] * 16}


@pytest.fixture
def questions(tmp_path):
    write_teacher(tmp_path / "answerer", task="question_answering", max_position_embeddings=128)

    def write(*, are_all_answered):
        rows = rows_of_kind("answers").to_list()
        for row in [] if are_all_answered else rows[::4]:
            row["answers"] = {"text": [], "answer_start": []}
        Dataset.from_list(rows).to_parquet(tmp_path / "questions.parquet")
        path = str(tmp_path / "questions.parquet")
        given = {"model": str(tmp_path / "answerer"), "train_data": path, "eval_data": path}
        return given | {"max_train_steps": 2, "batch_size": 8, "max_length": 24, "stages": (1,)}

    return write


@pytest.mark.parametrize(("are_all_answered", "metric"), [(True, "exact_match"), (False, "f1")])
def test_answers_are_binarized_on_files_of_questions(questions, are_all_answered, metric, tmp_path):
    given = questions(are_all_answered=are_all_answered)
    results = chain_of(tmp_path, given)
    assert 0 <= results["stage-1"][metric] <= 100
    packed = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "run" / "model", trust_remote_code=True)
    assert packed.config.packed


def test_rows_of_questions_are_checked(questions, tmp_path):
    given = questions(are_all_answered=True) | {"output_dir": str(tmp_path / "run")}
    for changes, message in (
        ({"label_column": "x"}, "train_data lacks the column label_column='x'"),
        ({"max_length": 512}, "max_length=512 is over the model's positions=128"),
    ):
        with pytest.raises(ValueError, match=message):
            binarize_chain(BinarizationSettings(**given | changes), lambda line: None)
        assert not (tmp_path / "run").exists()


def test_each_stage_begins_as_the_one_before_and_has_it_as_teacher(rows, tmp_path, monkeypatch):
    teachers, train = [], BinarizationTrainer.train

    def watched(self, *args, **kwargs):
        teachers.append((self.teacher, {name: one.clone() for name, one in self.model.state_dict().items()}))
        return train(self, *args, **kwargs)

    monkeypatch.setattr(BinarizationTrainer, "train", watched)
    chain_of(tmp_path, rows)
    (floating, _), (first, start) = teachers
    wanted = AutoModelForSequenceClassification.from_pretrained(rows["model"]).state_dict()
    assert all(floating.state_dict()[name].equal(tensor) for name, tensor in wanted.items())
    weights = {name: tensor for name, tensor in first.state_dict().items() if name.endswith("weight")}
    assert all(start[name].equal(tensor) for name, tensor in weights.items())
    assert first.config.activation_bits == 2


def written(folder, rows):
    config = folder / "bit.json"
    config.write_text(json.dumps({"method": "bit", "output_dir": str(folder / "run"), **rows}))
    return config


def test_the_command_runs_a_chain(rows, tmp_path, capsys):
    config = written(tmp_path, rows)
    assert main(["distill", str(config), "--stages", "1"]) == 0
    assert "bytes of weights" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "results.json").read_text())["stage-1"]["activation_bits"] == 1
    assert "is not empty; set resume" in error_of(capsys, "distill", str(config))


def test_by_default_a_stage_of_four_bits_has_steps_enough():
    settings = BinarizationSettings(model="a", train_data="b", output_dir="c")
    assert settings.stages == (4,)
    assert [settings.num_steps(num_rows, 32) for num_rows in (100, 320_000)] == [3_000, 30_000]
    assert settings.compared()["least_steps"] == 3_000


def test_the_papers_recipe_is_a_setting(rows, tmp_path):
    given = rows | {"method": "bit", "output_dir": str(tmp_path)}
    given = {name: value for name, value in given.items() if name not in PAPER}
    run = run_of(given | {"recipe": "paper", "batch_size": 8}, "config", ["--stages", "32", "2", "1"]).run
    assert {name: getattr(run, name) for name in PAPER} == PAPER | {"batch_size": 8, "stages": (32, 2, 1)}
    # a hundred passes of a small task, the cap's steps of a large one
    assert [run.num_steps(num_rows, 16) for num_rows in (3_668, 392_702)] == [23_000, 120_000]
    with pytest.raises(ValueError, match="^recipe='papper' is no recipe of method='bit'; its recipes: paper$"):
        run_of(given | {"recipe": "papper"}, "config")


def test_float_activations_are_a_stage(rows, tmp_path):
    results = chain_of(tmp_path, rows | {"stages": (32, 2)})
    assert [results[f"stage-{number}"]["activation_bits"] for number in (1, 2)] == [32, 2]


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def chains(rows, tmp_path_factory):
    """A whole chain in `whole`, and in `run` one that was killed in its second stage, after checkpoint-2."""
    folder, step, seen = tmp_path_factory.mktemp("chains"), BinarizationTrainer.training_step, []

    def killed(self, *args, **kwargs):
        seen.append(self.state.global_step)
        if len(seen) == 4 + 3:
            raise Killed
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        own_cache(patch, folder / "cache")
        patch.setattr("homodistil_hf.methods.binarization.stages._SAVE_STEPS", 1)
        whole = binarize_chain(BinarizationSettings(output_dir=str(folder / "whole"), **rows), lambda line: None)
        patch.setattr(BinarizationTrainer, "training_step", killed)
        with pytest.raises(Killed):
            binarize_chain(BinarizationSettings(output_dir=str(folder / "run"), **rows), lambda line: None)
    return whole, folder


@pytest.fixture
def killed_chain(chains, rows, tmp_path, monkeypatch):
    """What the whole chain found, and the settings that go on with a copy of the killed one, in `run`."""
    whole, folder = chains
    monkeypatch.setattr("homodistil_hf.methods.binarization.stages._SAVE_STEPS", 1)
    for name in ("whole", "run"):
        shutil.copytree(folder / name, tmp_path / name)
    return whole, BinarizationSettings(output_dir=str(tmp_path / "run"), resume=True, **rows)


def assert_same_chain(results, whole, tmp_path):
    assert [results[f"stage-{number}"] for number in (1, 2)] == [whole[f"stage-{number}"] for number in (1, 2)]
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "run")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ("", ""),
        (
            "stage-2/checkpoint-2/optimizer.pt",
            "checkpoint-2 can't be used and is passed over: optimizer.pt is damaged",
        ),
        ("stage-2/checkpoint-*/manifest.json", "checkpoint-1 can't be used and is passed over: manifest.json is dam"),
        ("stage-1/model/model.safetensors", "model can't be used and is made anew: model.safetensors is damaged"),
        ("stage-1/model/manifest.json", "model can't be used and is made anew: manifest.json is damaged"),
    ],
)
def test_a_chain_that_was_killed_goes_on(killed_chain, tmp_path, damaged, message, caplog):
    whole, again = killed_chain
    assert last_checkpoint(tmp_path / "run" / "stage-2").name == "checkpoint-2"
    for file in (tmp_path / "run").glob(damaged or "none"):
        file.write_bytes(b"0" * file.stat().st_size)
    assert_same_chain(binarize_chain(again, lambda line: None), whole, tmp_path)
    assert message in caplog.text
    assert manifest_problem(tmp_path / "run" / "stage-1" / "model") is None


def test_sigterm_saves_a_chain_and_ends_with_143(chains, rows, tmp_path, caplog):
    whole, folder = chains
    shutil.copytree(folder / "whole", tmp_path / "whole")
    config = written(tmp_path, rows)
    with sigterm_at(BinarizationTrainer, 4 + 2), pytest.raises(SystemExit, match="143"):
        main(["distill", str(config)])
    assert "checkpoint-2 is saved; go on with resume=true" in caplog.text
    assert main(["distill", str(config), "--resume", "true"]) == 0
    assert_same_chain(json.loads((tmp_path / "run" / "results.json").read_text()), whole, tmp_path)


def test_chains_that_would_fail_late_are_refused_early(rows, tmp_path, monkeypatch, never_trains):
    run = tmp_path / "run"
    Dataset.from_dict({"text": ["w5"] * 9, "label": [0, 1, 2] * 3}).to_parquet(tmp_path / "three.parquet")
    three = dict.fromkeys(("train_data", "eval_data"), str(tmp_path / "three.parquet"))
    for changes, message in (
        (three, "train_data: column 'label' has the label '?2'? .*; the model has the classes 0 … 1; correct or drop"),
        ({"output_dir": rows["model"], "resume": True}, "is not empty; it holds no chain"),
        ({"output_dir": rows["train_data"]}, r"can't be written \(Not a directory\)"),
    ):
        with pytest.raises(ValueError, match=message):
            binarize_chain(BinarizationSettings(**{"output_dir": str(run)} | rows | changes), lambda line: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="start it without torchrun"):
        binarize_chain(BinarizationSettings(output_dir=str(run), **rows), lambda line: None)
    assert not run.exists()


def test_accumulated_gradients_are_those_of_the_whole_batch(rows, tmp_path):
    """Labels are in the batches, and models' forward methods take any argument: Trainer must divide all the same."""
    teacher = AutoModelForSequenceClassification.from_pretrained(rows["model"])
    data = [{"input_ids": [5 + number, 6, 7, 8], "labels": number % 2} for number in range(8)]
    found = []
    for size in (8, 2):
        student = to_binary(teacher, activation_bits=1)
        calibrate(student, {"input_ids": torch.tensor([row["input_ids"] for row in data])})
        scales = {name: one.clone() for name, one in student.state_dict().items()}
        batches = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
        of_sgd = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, "weight_decay": 0.0}
        settings = {"max_steps": 1, "use_cpu": True, "disable_tqdm": True, **batches, **of_sgd}
        trainer = trainer_of(student, teacher, tmp_path / f"out{size}", data, **settings)
        trainer.train()
        found.append({name: one - scales[name] for name, one in student.state_dict().items()})
    name = "bert.encoder.layer.1.output.dense.weight"
    whole, accumulated = (float(one[name].norm()) for one in found)
    assert accumulated == pytest.approx(whole, rel=0.3)  # scales are those of other first batches; else 4 times


def test_scales_and_thresholds_learn_faster_and_do_not_decay(tmp_path):
    teacher = make_teacher("question_answering")
    student = to_binary(teacher, activation_bits=1)
    trainer = trainer_of(student, teacher, tmp_path, learning_rate=1e-3, weight_decay=0.1)
    groups = trainer.create_optimizer().param_groups
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    given = [[names[id(one)] for one in group["params"]] for group in groups]
    assert sorted(name for of_group in given for name in of_group) == sorted(names.values())
    for group, of_group in zip(groups, given, strict=True):
        is_own = {name.endswith(("log_scale", "offset")) for name in of_group}
        if is_own == {True}:
            assert (group["lr"], group["weight_decay"]) == (pytest.approx(1e-2), 0.0)
        else:
            assert (is_own, group["lr"]) == ({False}, 1e-3)


def test_a_trainer_may_train_again_and_what_it_saves_is_resumed(tmp_path):
    teacher = make_teacher("sequence_classification")
    data = make_blocks(16).map(lambda row: {"labels": row["input_ids"][1] % 2}).remove_columns("example_id")
    settings = {"max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 8}
    trainer = trainer_of(to_binary(teacher, activation_bits=1), teacher, tmp_path / "run", data, **settings)
    trainer.train()
    sizes = [len(group["params"]) for group in trainer.optimizer.param_groups]
    trainer.train("last")
    assert [len(group["params"]) for group in trainer.optimizer.param_groups] == sizes
    fresh = trainer_of(to_binary(teacher, activation_bits=1), teacher, tmp_path / "run", data, **settings)
    fresh.train(str(tmp_path / "run" / "checkpoint-1"))
    assert fresh.state.global_step == 2


def test_an_order_that_no_resumed_run_would_see_is_refused(tmp_path):
    teacher = make_teacher("sequence_classification")
    loading = {"use_seedable_sampler": False}
    with pytest.raises(ValueError, match="accelerator_config has use_seedable_sampler=False; .*: leave it out"):
        trainer_of(to_binary(teacher, activation_bits=1), teacher, tmp_path, accelerator_config=loading)


def test_a_run_goes_on_with_its_own_settings_alone(rows, tmp_path):
    chain_of(tmp_path, rows)
    other = BinarizationSettings(output_dir=str(tmp_path / "run"), resume=True, **rows | {"stages": (4, 1)})
    with pytest.raises(
        ValueError, match=r"stages=\(?\[?4, 1\]?\)? is not what the run .* began with, \[2, 1\]; resume"
    ):
        binarize_chain(other, lambda line: None)


def trainer_of(student, teacher, folder, rows=None, **settings):
    arguments = BinarizationArguments(str(folder), report_to="none", **settings)
    return BinarizationTrainer(student, arguments, teacher_model=teacher, train_dataset=rows)


def test_answers_are_compared_among_tokens_that_are_there(tmp_path):
    teacher = make_teacher("question_answering")
    student = to_binary(teacher, activation_bits=1).eval()
    trainer = trainer_of(student, teacher, tmp_path)
    tokens = torch.randint(5, 90, (2, 9))
    calibrate(student, {"input_ids": tokens})
    mask = torch.ones_like(tokens)
    alone = trainer.compute_loss(student, {"input_ids": tokens, "attention_mask": mask})
    padding = torch.zeros_like(tokens)
    padded = {"input_ids": torch.cat([tokens, padding], 1), "attention_mask": torch.cat([mask, padding], 1)}
    found = trainer.compute_loss(student, padded)
    assert float(found.detach()) == pytest.approx(float(alone.detach()), rel=1e-4)


@each(
    ("changes", "message"),
    [
        ({"dropout_fraction": 1.5}, r"^dropout_fraction=1.5 is outside \[0, 1\)"),
        ({"learning_rate": -1.0}, r"^learning_rate=-1.0 is outside \(0, inf\)"),
        ({"learning_rate": None}, r"^learning_rate=None is outside \(0, inf\)"),
        ({"learning_rates": (1e-4,)}, r"^learning_rates=.*: a chain searches no rates"),
        ({"stages": (3,)}, "stages=.* are no numbers of bits; expected of 1, 2, 4, 8 and 32"),
        ({"stages": (True,)}, "stages=.* are no numbers of bits"),
        ({"teacher": "x"}, "teacher is the model itself"),
    ],
)
def test_settings_of_a_chain_of_bits_are_checked(changes, message):
    given = {"model": "m", "train_data": "a", "eval_data": "b", "output_dir": "o"}
    with pytest.raises(ValueError, match=message):
        BinarizationSettings(**given | changes)


@each("num_labels", [1, 3])
def test_regressions_are_compared_by_their_values(num_labels, tmp_path):
    teacher = make_teacher("sequence_classification", num_labels=num_labels, problem_type="regression")
    student = to_binary(teacher, activation_bits=1).eval()
    trainer = trainer_of(student, teacher, tmp_path)
    tokens = torch.randint(5, 90, (2, 9))
    calibrate(student, {"input_ids": tokens})
    before = trainer.compute_loss(student, {"input_ids": tokens})
    with torch.no_grad():
        far = teacher(tokens).logits - student(tokens).logits
        student.classifier.bias.add_(10)  # the same for all values, which a softmax would not see
        added = (0.5 * ((far - 10).square() - far.square())).mean(-1).mean()
    after = trainer.compute_loss(student, {"input_ids": tokens})
    assert float(after - before) == pytest.approx(float(added), rel=1e-3)


def test_tokens_of_one_class_are_compared_without_padding(tmp_path):
    teacher = make_teacher("token_classification", num_labels=1)
    student = to_binary(teacher, activation_bits=1).eval()
    trainer = trainer_of(student, teacher, tmp_path)
    logits = torch.randn(2, 3, 1)
    kl = trainer._kl(logits, logits + 10, torch.tensor([[1, 1, 0], [1, 0, 0]]), "logits")
    assert float(kl) == 0  # one class has the probability 1


def test_a_chain_goes_on_with_the_model_that_it_began_with(killed_chain, tmp_path):
    _, again = killed_chain
    shutil.copytree(again.model, tmp_path / "model")
    other = BertForSequenceClassification.from_pretrained(tmp_path / "model")
    file = tmp_path / "run" / "settings.json"
    # a folder of the same name, with other weights now
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": str(tmp_path / "model")}))
    again = replace(again, model=str(tmp_path / "model"))
    randomized(other, seed=9).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="has other weights than when the run in output_dir=.* began; resume with"):
        binarize_chain(again, lambda line: None)
