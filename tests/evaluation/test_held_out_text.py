"""Discrepancy on held-out text against slow loops, and what is said of teachers that aren't there."""

import json
import math

import pytest
import torch
from tiny_files import own_cache, write_config, write_teacher, write_text
from tiny_models import make_blocks, make_teacher, randomized, tiny_tokenizer

from homodistil_hf.data.masking import MaskedLMCollator
from homodistil_hf.distillation.discrepancy import DiscrepancyMeter
from homodistil_hf.distillation.task_scores import TaskMeter
from homodistil_hf.distillation.tasks import task_of
from homodistil_hf.distillation.teacher import FrozenTeacher
from homodistil_hf.evaluation import DiscrepancySettings, evaluate_discrepancy
from homodistil_hf.evaluation.evaluated_model import load_model
from homodistil_hf.evaluation.held_out_text import held_out_blocks, pseudo_perplexity
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.loading import load_encoder
from homodistil_hf.runs.config import parse_run
from homodistil_hf.runs.student import make_trainer


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        own_cache(monkeypatch, tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`teacher`, `student` (another model with its tokenizer) and `eval.txt`."""
    folder = tmp_path_factory.mktemp("discrepancy")
    write_teacher(folder / "teacher")
    write_teacher(folder / "student")
    randomized(make_teacher(), seed=5).save_pretrained(folder / "student")
    write_text(folder / "eval.txt", seed=1)
    return folder


def settings_of(folder, **changes):
    values = {"max_seq_length": 16, "max_eval_blocks": 40, "pseudo_perplexity_blocks": 2}
    return {"eval_data": str(folder / "eval.txt"), **values, **changes}


def test_agreement_is_counted_by_hand():
    models = [to_student(make_teacher()), to_student(randomized(make_teacher(), std=0.02, seed=5))]
    meter = TaskMeter(task_of(models[0]))
    plain = DiscrepancyMeter(task_of(models[0]))
    equal, count = 0, 0
    for seed in range(3):
        batch = MaskedLMCollator(tiny_tokenizer())(make_blocks(8, seed=seed).to_list())
        for one in (meter, plain):
            one.update(models[1], FrozenTeacher(models[0]), batch)
        with torch.no_grad():
            best = [model(input_ids=batch["input_ids"]).logits.argmax(-1) for model in models]
        for row, token in (batch["labels"] >= 0).nonzero().tolist():
            equal += int(best[0][row, token] == best[1][row, token])
            count += 1
    assert 0 < equal < count
    assert meter.results() == {**plain.results(), "agreement": equal / count}


@torch.no_grad()
def test_pseudo_perplexity_against_a_slow_loop(tokenizer):
    model, blocks = to_student(make_teacher()), make_blocks(2)
    losses = []
    for block in blocks:
        for position, label in enumerate(block["input_ids"]):
            if label in (2, 3):  # [CLS], [SEP]
                continue
            ids = list(block["input_ids"])
            ids[position] = 4  # [MASK]
            losses.append(-float(model(input_ids=torch.tensor([ids])).logits[0, position].log_softmax(-1)[label]))
    found = pseudo_perplexity(model, blocks, tokenizer)
    assert found["num_pseudo_perplexity_tokens"] == len(losses) == 2 * 14
    assert found["pseudo_perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


def test_a_teacher_is_measured_against_itself(folder, tmp_path):
    teacher = folder / "teacher"
    found = evaluate_discrepancy(teacher, teacher=teacher, settings=settings_of(folder), output_dir=tmp_path)
    discrepancy = found["discrepancy"]
    assert (discrepancy["kl"], discrepancy["agreement"], discrepancy["teacher"]) == (0.0, 1.0, "teacher")
    assert discrepancy["num_blocks"] == 40
    assert discrepancy["eval_data"] == ["eval.txt"]


def test_a_default_length_is_lowered_to_the_positions(folder, tmp_path):
    settings = settings_of(folder, max_seq_length=None, max_eval_blocks=4)
    found = evaluate_discrepancy(folder / "student", settings=settings, output_dir=tmp_path)["discrepancy"]
    assert found["settings"]["max_seq_length"] == 32


@pytest.mark.slow
def test_blocks_are_those_of_a_run(folder, tmp_path):
    """Of several sources none may be left out, whoever evaluates."""
    settings = settings_of(folder)
    of_a_run = {name: settings[name] for name in ("eval_data", "max_seq_length", "max_eval_blocks")}
    trainer = make_trainer(parse_run([str(write_config(tmp_path, **of_a_run))]), print)
    found = held_out_blocks(DiscrepancySettings(**settings), load_model(folder / "student", tmp_path))
    assert [row["input_ids"] for row in found] == [row["input_ids"] for row in trainer.eval_dataset]
    assert len(found) == 40


@pytest.mark.slow
def test_figures_are_the_trainers_own(folder, tmp_path):
    """Same masks as an evaluation during `distill` with the default seed."""
    settings = settings_of(folder)
    evaluated = load_model(folder / "student", tmp_path)
    blocks = held_out_blocks(DiscrepancySettings(**settings), evaluated)
    student, teacher = to_student(evaluated.model), FrozenTeacher(to_student(load_encoder(str(folder / "teacher"))))
    meter = DiscrepancyMeter(task_of(student))
    meter.update(student, teacher, MaskedLMCollator(evaluated.tokenizer, seed=42)(blocks.to_list()))
    found = evaluate_discrepancy(
        folder / "student", teacher=folder / "teacher", settings=settings, output_dir=tmp_path
    )["discrepancy"]
    assert {name: found[name] for name in meter.results()} == pytest.approx(meter.results(), rel=1e-6)
    assert found["num_masked_tokens"] == 40 * 2
    assert found["kl"] > 0


def test_the_recorded_teacher_is_found(folder, tmp_path):
    (folder / "settings.json").write_text(json.dumps({"teacher": str(folder / "teacher")}))
    try:
        found = evaluate_discrepancy(folder / "student", settings=settings_of(folder), output_dir=tmp_path)
    finally:
        (folder / "settings.json").unlink()
    assert found["discrepancy"]["teacher"] == "teacher"


@pytest.mark.parametrize(
    ("recorded", "reason"),
    [(None, "no teacher is recorded"), ({"teacher": "/nowhere/at/all"}, "its teacher can't be read")],
)
def test_without_a_teacher_its_figures_are_left_out(folder, tmp_path, recorded, reason):
    if recorded:
        (folder / "settings.json").write_text(json.dumps(recorded))
    lines = []
    try:
        found = evaluate_discrepancy(
            folder / "student", settings=settings_of(folder), output_dir=tmp_path, say=lines.append
        )["discrepancy"]
    finally:
        (folder / "settings.json").unlink(missing_ok=True)
    assert {"kl", "agreement"} & found.keys() == set()
    assert {"mlm_loss", "mlm_accuracy", "pseudo_perplexity"} <= found.keys()
    assert reason in lines[0]
    assert "name one with --teacher" in lines[0]


@pytest.mark.slow
def test_a_measurement_is_not_repeated(folder, tmp_path):
    lines = []
    arguments = {"teacher": folder / "teacher", "output_dir": tmp_path, "say": lines.append}
    first = evaluate_discrepancy(folder / "student", settings=settings_of(folder), **arguments)
    assert evaluate_discrepancy(folder / "student", settings=settings_of(folder), **arguments) == first
    for change in ({"max_eval_blocks": 8}, {"mask_seed": 1}):
        other = evaluate_discrepancy(folder / "student", settings=settings_of(folder, **change), **arguments)
        assert other["discrepancy"]["kl"] != first["discrepancy"]["kl"]
    figures = [line for line in lines if line.startswith("discrepancy: ")]
    assert [line.endswith("(read from an earlier evaluation)") for line in figures] == [False, True, *[False] * 2]


def test_another_vocabulary_can_not_be_compared(folder, tmp_path):
    make_teacher(vocab_size=100).save_pretrained(tmp_path / "larger")
    with pytest.raises(ValueError, match="teacher has vocab_size=100, the model 96"):
        evaluate_discrepancy(
            folder / "student", teacher=tmp_path / "larger", settings=settings_of(folder), output_dir=tmp_path / "out"
        )


def test_a_classifier_has_no_masked_words(folder, tmp_path):
    write_teacher(tmp_path / "classifier")
    make_teacher("sequence_classification").save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match="is a BertForSequenceClassification; a discrepancy is measured between"):
        evaluate_discrepancy(tmp_path / "classifier", settings=settings_of(folder))
