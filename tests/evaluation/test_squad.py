"""SQuAD from end to end: a tiny model that can learn where answers are, and real questions."""

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_models import make_teacher, random_student, tiny_tokenizer
from transformers import AutoTokenizer

from homodistil_hf.evaluation import GlueSettings
from homodistil_hf.evaluation.evaluated_model import EvaluatedModel, load_model
from homodistil_hf.evaluation.fine_tuning import FineTuned, encoded_rows, settings_from
from homodistil_hf.evaluation.task_runs import (
    SquadSettings,
    evaluate_squad,
    evaluate_tasks,
    grade,
    official_metrics,
    task_score,
    training_rows,
    with_length,
)
from homodistil_hf.models.architectures.architecture import QUESTION_ANSWERING
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForMaskedLM, HomoBertForQuestionAnswering
from homodistil_hf.models.heads import with_fresh_head
from homodistil_hf.tasks.glue import SQUAD_TASKS, TaskData, load_task
from homodistil_hf.tasks.questions import (
    Answer,
    answer_grades,
    answer_questions,
    best_answer,
    labelled_inputs,
    make_windows,
)

TOKENIZER = tiny_tokenizer()
TINY = SquadSettings(
    max_length=24,
    learning_rate=5e-3,
    num_train_epochs=4,
    batch_size=16,
    weight_decay=0.0,
    dropout_fraction=0.0,
    dtype="float32",
)


def questions(num_questions, *, seed):
    """Contexts of one to two windows; two in three hold the answer, "w90 w91"."""
    generator = random.Random(seed)
    for index in range(num_questions):
        words = [f"w{generator.randrange(10, 80)}" for _ in range(generator.randrange(5, 26))]
        answers = {"text": [], "answer_start": []}
        if index % 3:
            place = generator.randrange(len(words))
            words[place:place] = ["w90", "w91"]
            answers = {"text": ["w90 w91"], "answer_start": [" ".join(words).index("w90")]}
        yield {"id": f"{seed}-{index}", "context": " ".join(words), "question": "w5 w6", "answers": answers}


def tiny_data(task="squad_v2", *, num_train=240):
    def drawn(number, seed):
        rows = list(questions(number, seed=seed))
        return Dataset.from_list([row for row in rows if task == "squad_v2" or row["answers"]["text"]])

    return TaskData(task, task, drawn(num_train, 0), {"validation": drawn(60, 1)}, "0" * 64)


def write_questions(folder):
    """The name of a folder with a training and a development file."""
    for seed, (name, number) in enumerate((("train", 24), ("validation", 9))):
        Dataset.from_list(list(questions(number, seed=seed))).to_parquet(folder / "data" / f"{name}.parquet")
    return str(folder / "data")


def fine_tune_squad(evaluated, data, *, settings, seed):
    """One fine-tuning, as `evaluate_squad` has it done."""
    settings = settings_from(SquadSettings, settings)
    settings = with_length(settings, evaluated)
    rows = training_rows(data.train, settings.max_train_samples)
    found, trained = official_metrics(evaluated, data.task, rows, data.dev, settings=settings, seed=seed)
    return {"metrics": found["validation"], "num_steps": trained.num_steps, "train_loss": trained.train_loss}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A stock BERT with its tokenizer."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    make_teacher().save_pretrained(path)
    TOKENIZER.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def evaluated(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def learned(evaluated):
    return fine_tune_squad(evaluated, tiny_data(), settings=TINY, seed=0)


@pytest.mark.slow
def test_answers_are_learned(learned):
    assert learned["metrics"]["HasAns_exact"] > 90
    assert learned["metrics"]["NoAns_exact"] > 90
    assert task_score("squad_v2", learned["metrics"]) == learned["metrics"]["f1"] / 100


@pytest.mark.slow
def test_every_window_is_learned_in_every_epoch(learned):
    num_windows = len(encoded_rows(SQUAD_TASKS["squad_v2"], tiny_data().train, TOKENIZER, 24))
    assert learned["num_steps"] == 4 * math.ceil(num_windows / 16)
    assert json.loads(json.dumps(learned)) == learned


@pytest.mark.slow
def test_the_first_version_says_something_to_every_question(evaluated):
    data = tiny_data("squad", num_train=24)
    result = fine_tune_squad(evaluated, data, settings=TINY, seed=0)
    assert set(result["metrics"]) == {"exact_match", "f1"}
    answerer = with_fresh_head(evaluated.model.base_model, 2, QUESTION_ANSWERING, dropout=0.0, seed=0)
    ranked = answer_questions(answerer, data.dev["validation"], TOKENIZER, TINY.row_length)
    assert all(one.text for one in ranked)


def test_answers_come_from_the_models_logits_window_by_window(evaluated):
    answerer = with_fresh_head(evaluated.model.base_model, 2, QUESTION_ANSWERING, dropout=0.0, seed=0).eval()
    rows = tiny_data().dev["validation"]
    ranked = answer_questions(answerer, rows, TOKENIZER, TINY.row_length)
    for index, row in enumerate(rows.to_list()[:12]):
        windows = make_windows([row], TOKENIZER, TINY.row_length)
        logits = []
        for window in windows:
            with torch.no_grad():
                outputs = answerer(**{name: torch.tensor([values]) for name, values in window.inputs.items()})
            logits.append((outputs.start_logits[0].numpy(), outputs.end_logits[0].numpy()))
        alone = best_answer(row["context"], windows, logits)
        assert ranked[index].score == pytest.approx(alone.score, abs=1e-5)
        assert ranked[index].null_score == pytest.approx(alone.null_score, abs=1e-5)
        assert ranked[index].text == alone.text


def test_windows_to_learn_from_are_the_features():
    rows = tiny_data().train.select(range(7))
    windows = encoded_rows(SQUAD_TASKS["squad_v2"], rows, TOKENIZER, TINY.row_length)
    expected = [
        labelled_inputs(window, rows[window.row])
        for window in make_windows(rows.to_list(), TOKENIZER, TINY.row_length)
    ]
    assert [{name: value for name, value in row.items() if name != "length"} for row in windows] == expected
    assert windows["length"][:] == [len(inputs["input_ids"]) for inputs in expected]


def answered(text, difference):
    """An answer that is better than "no answer" by `difference`."""
    return Answer(text, difference, 0.0)


def test_no_answer_is_said_where_its_score_is_higher():
    rows = Dataset.from_list(list(questions(3, seed=0)))  # the first has no answer
    ranked = [answered("w11", -0.1), answered("w90 w91", 0.1), answered("w90 w91", -0.3)]
    metrics = grade("squad_v2", rows, ranked)
    assert (metrics["NoAns_f1"], metrics["HasAns_f1"], metrics["f1"]) == pytest.approx((100, 50, 200 / 3))
    # Answering all with a difference of -0.3 or more gains one question and loses one.
    assert metrics["best_f1"] == pytest.approx(200 / 3)
    assert metrics["best_f1_thresh"] == pytest.approx(1 / (1 + math.exp(0.1)))
    assert not [name for name in metrics if name.endswith("total")]
    even = grade("squad_v2", rows, [answered("w11", 0.0), *ranked[1:]])
    assert even["NoAns_f1"] == 0


@pytest.mark.parametrize(("sign", "is_told"), [(1, True), (-1, False)])
def test_a_model_that_never_answers_is_told(evaluated, caplog, sign, is_told):
    """Where half of the questions have no answer it scores 50 %, which looks like something."""
    answerer = with_fresh_head(evaluated.model.base_model, 2, QUESTION_ANSWERING, dropout=0.0, seed=0).eval()
    rows = Dataset.from_list(list(questions(3, seed=0)))
    with torch.no_grad():
        # [CLS], the first token, has a larger logit than the others, or a smaller one
        states_TH = answerer.bert(**TOKENIZER(rows["context"][0], return_tensors="pt")).last_hidden_state[0]
        answerer.qa_outputs.weight[:] = sign * (states_TH[0] - states_TH[1:].mean(0))
    assert answer_grades(answerer, rows, TOKENIZER, 32).get("is_constant", False) == is_told
    assert ("none of 3 held-out questions gets an answer: this model has learned nothing" in caplog.text) == is_told


def test_a_learning_rate_is_chosen_on_texts_of_its_own(folder, tmp_path):
    seen = []

    def measured(evaluated, task, rows, measured_on, *, settings, seed, folder):
        seen.append((settings.learning_rate, set(rows["context"][:]), measured_on))
        return {name: {"f1": 100 * settings.learning_rate} for name in measured_on}, FineTuned(None, 1, 0.0)

    rows = [row | {"context": context} for row, context in zip(questions(40, seed=0), "abcde" * 8, strict=True)]
    rows = [row | {"answers": {"text": [], "answer_start": []}} for row in rows]
    data = TaskData("squad_v2", "squad_v2", Dataset.from_list(rows), {"validation": Dataset.from_list(rows)}, "")
    settings = replace(TINY, seeds=0, learning_rate=None, learning_rates=(0.5, 0.25))
    evaluate_tasks(load_model(folder, tmp_path / "results"), [data], measured, settings=settings, say=print)
    for _, learned_from, measured_on in seen[:2]:
        held_out = set(measured_on["held_out"]["context"][:])
        assert (len(held_out), len(learned_from), held_out & learned_from) == (1, 4, set())
    assert [rate for rate, _, _ in seen] == [0.25, 0.5, 0.5]
    assert seen[2][2].keys() == {"validation"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_length": 40}, "max_length=40 is over the model's positions=32; nearest valid: 32"),
        ({"max_lengths": 2}, "settings has the unknown key 'max_lengths' .*; nearest valid: 'max_length'"),
        ({"batch_size": 0}, "batch_size=0 is not a whole number of at least 1"),
    ],
)
def test_wrong_settings_are_named(evaluated, values, message):
    with pytest.raises(ValueError, match=message):
        fine_tune_squad(evaluated, tiny_data(), settings={**TINY.compared(), **values}, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(("positions", "length"), [(512, 384), (32, 32)])
def test_default_windows_are_those_that_a_model_reads(positions, length, tmp_path):
    make_teacher(max_position_embeddings=positions).save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    how = {"data_dir": write_questions(tmp_path), "learning_rate": 1e-3, "seeds": 0, "max_train_steps": 1}
    found = evaluate_squad(tmp_path / "model", settings=how, output_dir=tmp_path / "results")["tasks"]["squad_v2"]
    assert found["conditions"]["max_length"] == length


def test_settings_of_another_kind_are_refused(evaluated):
    with pytest.raises(ValueError, match="settings are GlueSettings; expected SquadSettings, or values by name"):
        fine_tune_squad(evaluated, tiny_data(), settings=GlueSettings(), seed=0)


def test_missing_data_are_told_before_the_model_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="data_dir=.* has none for train; expected one file: train.parquet"):
        evaluate_squad("no such model", settings={"data_dir": str(tmp_path)})
    with pytest.raises(ValueError, match="data_dir='.*nowhere' is no folder"):
        evaluate_squad("no such model", settings={"data_dir": str(tmp_path / "nowhere")})


@pytest.mark.slow
def test_students_of_uneven_widths_are_fine_tuned_as_they_are(tmp_path):
    student = random_student(HomoBertForMaskedLM, vocab_size=len(TOKENIZER), max_position_embeddings=32)
    answerer = with_fresh_head(student.base_model, 2, QUESTION_ANSWERING, dropout=0.0, seed=0).eval()
    assert type(answerer) is HomoBertForQuestionAnswering
    inputs = {"input_ids": torch.tensor([[2, 5, 3, 40, 41, 42, 3]])}
    with torch.no_grad():
        hidden = [model.base_model(**inputs).last_hidden_state for model in (answerer, student)]
    assert torch.allclose(*hidden, atol=1e-5)
    data, model = tiny_data(num_train=24), EvaluatedModel("uneven", "uneven", student, TOKENIZER, tmp_path)
    assert fine_tune_squad(model, data, settings=TINY, seed=0)["train_loss"] > 0


def test_logits_of_a_diverged_model_are_an_error(evaluated):
    answerer = with_fresh_head(evaluated.model.base_model, 2, QUESTION_ANSWERING, dropout=0.0, seed=0)
    with torch.no_grad():
        answerer.qa_outputs.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="logits of BertForQuestionAnswering are not finite: fine-tuning div"):
        answer_questions(answerer, tiny_data().dev["validation"], TOKENIZER, TINY.row_length)


@pytest.fixture(scope="module")
def real_tokenizer(real_data):
    return AutoTokenizer.from_pretrained(real_data / "teacher")


@pytest.mark.slow
@pytest.mark.real_data
def test_right_logits_give_the_right_answers_to_real_questions(real_data, real_tokenizer):
    rows = load_task("squad_v2", real_data).dev["validation"].select(range(0, 1200, 12))
    windows = make_windows(rows.to_list(), real_tokenizer, 192)
    assert len(windows) > len(rows)
    ranked = []
    for index, row in enumerate(rows):
        mine = [window for window in windows if window.row == index]
        ranked.append(best_answer(row["context"], mine, [certain_logits(window, row) for window in mine]))
    metrics = grade("squad_v2", rows, ranked)
    assert (metrics["NoAns_exact"], metrics["HasAns_f1"]) == pytest.approx((100, 100), abs=1)
    assert metrics["HasAns_exact"] > 96  # where an answer is part of a word, the whole word is found


def certain_logits(window, row):
    labelled = labelled_inputs(window, row)
    starts, ends = np.zeros((2, len(window.inputs["input_ids"])))
    starts[labelled["start_positions"]] = ends[labelled["end_positions"]] = 10.0
    return starts, ends


def test_an_answer_of_a_sign_alone_makes_no_question_without_one(monkeypatch):
    given = [answered("w2", 1.0)] * 4
    monkeypatch.setattr("homodistil_hf.tasks.questions.answer_questions", lambda *_: given)
    rows = [{"id": "1", "question": "w1", "context": "w2 w3 %", "answers": {"text": ["w2"], "answer_start": [0]}}] * 4
    assert answer_grades(None, Dataset.from_list(rows), None, 32) == {"f1": 100, "exact_match": 100}
    rows[-1] = rows[-1] | {"answers": {"text": ["%"], "answer_start": [6]}}
    assert answer_grades(None, Dataset.from_list(rows), None, 32) == {"f1": 75, "exact_match": 75}


def test_an_empty_answer_is_none(monkeypatch):
    given = [answered("w2", 1.0), answered("w2", -5.0)]
    monkeypatch.setattr("homodistil_hf.tasks.questions.answer_questions", lambda *_: given)
    texts = [{"text": ["w2"], "answer_start": [0]}, {"text": [""], "answer_start": [0]}]
    rows = [{"id": "1", "question": "w1", "context": "w2 w3", "answers": answers} for answers in texts]
    assert answer_grades(None, Dataset.from_list(rows), None, 32) == {"f1": 100, "exact_match": 100}
