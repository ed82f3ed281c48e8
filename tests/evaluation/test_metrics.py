"""The official metrics as modules of `evaluate`: GLUE's against scikit-learn, SQuAD's against its script."""

import json
import random

import numpy as np
import pytest
from datasets import Dataset
from rows import each
from sklearn import metrics

from homodistil_hf.evaluation.task_runs import constant_score, load_metric, task_score
from homodistil_hf.tasks.glue import GLUE_TASKS, TaskData

GLUE_METRICS = {name: task.metrics for name, task in GLUE_TASKS.items()}
REFERENCE = {
    "accuracy": metrics.accuracy_score,
    "f1": lambda wanted, given: metrics.f1_score(wanted, given, zero_division=0.0),
    "matthews_correlation": metrics.matthews_corrcoef,
}


def computed(task, given, wanted):
    return load_metric(task).compute(predictions=given, references=wanted)


@each("task", [task for task in GLUE_METRICS if task != "stsb"])
def test_classification_equals_scikit_learn(task):
    given, wanted = np.random.default_rng(0).integers(0, 3 if task == "mnli" else 2, (2, 57))
    assert computed(task, given, wanted) == {name: REFERENCE[name](wanted, given) for name in GLUE_METRICS[task]}


def test_values_are_plain_numbers():
    for task in GLUE_METRICS:
        results = computed(task, np.array([0, 1, 1]), np.array([0, 1, 0]))
        assert {type(value) for value in results.values()} == {float}
        assert json.loads(json.dumps(results)) == results


@each(
    ("task", "given", "message"),
    [
        ("cola", [], "predictions of cola are empty; expected at least one"),
        ("stsb", [1.0, float("nan")], "predictions of stsb hold nan; expected finite numbers"),
        ("stsb", [1.0, float("inf")], "predictions of stsb hold inf; expected finite numbers"),
        ("mnli-mm", [1.0], "task='mnli-mm' is unknown; nearest valid: 'mnli'"),
    ],
)
def test_no_predictions_diverged_ones_and_unknown_tasks_are_errors(task, given, message):
    with pytest.raises(ValueError, match=message):
        computed(task, given, [1.0, 2.0][: len(given)])


def test_the_score_of_a_task_is_the_mean_of_its_main_metrics():
    assert task_score("mrpc", {"accuracy": 0.7, "f1": 0.8, "loss": 9.0}) == pytest.approx(0.75)
    assert task_score("cola", {"matthews_correlation": -0.1}) == -0.1
    assert task_score("squad", {"exact_match": 60.0, "f1": 70.0}) == pytest.approx(0.7)


def test_a_constant_answer_to_a_question_is_none():
    def questions(*texts):
        answers = [{"text": text, "answer_start": [0] * len(text)} for text in texts]
        return Dataset.from_list([{"id": str(index), "answers": found} for index, found in enumerate(answers)])

    data = TaskData("squad_v2", "squad_v2", questions(["cat"]), {"validation": questions(["cat"], [], [])}, "")
    assert constant_score(data) == pytest.approx(2 / 3)
    data = TaskData("squad", "squad", questions(["cat"]), {"validation": questions(["cat"], ["dog"])}, "")
    assert constant_score(data) == 0


def reference(identity, *texts):
    return {"id": identity, "answers": {"text": list(texts), "answer_start": [0] * len(texts)}}


def prediction(identity, text, probability=None):
    row = {"id": identity, "prediction_text": text}
    return row if probability is None else row | {"no_answer_probability": probability}


def test_nothing_left_of_both_counts_by_version():
    given, wanted = prediction("a", "a"), reference("a", "the")
    first = load_metric("squad").compute(predictions=[given], references=[wanted])
    second = load_metric("squad_v2").compute(predictions=[given | {"no_answer_probability": 0.0}], references=[wanted])
    assert first == {"exact_match": 100, "f1": 0}
    assert (second["exact"], second["f1"]) == (100, 100)


ANSWERED = [
    (prediction("a", "the cat", 0.2), reference("a", "cat", "")),
    (prediction("b", "black cat", 0.6), reference("b", "cat")),
    (prediction("c", "cat", 0.7), reference("c")),
    (prediction("d", "", 0.1), reference("d")),
    (prediction("e", "", 0.9), reference("e", "cat")),
]


def second_version(pairs, **options):
    return load_metric("squad_v2").compute(
        predictions=[given for given, _ in pairs], references=[wanted for _, wanted in pairs], **options
    )


def test_the_second_version_by_hand():
    results = second_version(ANSWERED)
    # By probability: d is right already, a adds 1, b adds 0 or 2/3, c loses its point, e adds nothing.
    expected = {
        "exact": 100 * 2 / 5,
        "f1": 100 * (1 + 2 / 3 + 1) / 5,
        "total": 5,
        "HasAns_exact": 100 / 3,
        "HasAns_f1": 100 * (1 + 2 / 3) / 3,
        "HasAns_total": 3,
        "NoAns_exact": 50,
        "NoAns_f1": 50,
        "NoAns_total": 2,
        "best_exact": 100 * 3 / 5,
        "best_exact_thresh": 0.2,
        "best_f1": 100 * (2 + 1 + 2 / 3) / 5,
        "best_f1_thresh": 0.6,
    }
    assert results == pytest.approx(expected)
    assert list(results) == list(expected)


@pytest.mark.parametrize(("kept", "absent"), [(slice(2, 4), "HasAns_f1"), (slice(0, 2), "NoAns_f1")])
def test_questions_of_one_kind_have_no_part_of_the_other(kept, absent):
    results = second_version(ANSWERED[kept])
    assert absent not in results
    assert results["total"] == 2


def test_an_empty_gold_counts_only_if_both_are_empty():
    wanted = reference("a", "")
    for text, score in (("", 100), ("cat", 0), ("the", 100)):
        assert second_version([(prediction("a", text, 0.0), wanted)])["f1"] == score


@each(
    ("task", "given", "wanted", "message"),
    [
        ("squad_v2", ["a", "b"], ["a", "c"], "predictions lack id='c' of the references; predict an empty text"),
    ],
)
def test_predictions_and_references_go_together(task, given, wanted, message):
    probability = 0.0 if task == "squad_v2" else None
    with pytest.raises(ValueError, match=message):
        load_metric(task).compute(
            predictions=[prediction(identity, "x", probability) for identity in given],
            references=[reference(identity, "x") for identity in wanted],
        )


@each(
    ("row", "golds", "message"),
    [
        (prediction("a", "x"), (), "references: question id='a' has no answer; use the metric squad_v2"),
        (prediction("a", "x", -0.1), ("x",), r"no_answer_probability=-0.1 is not in \[0, 1\]; of a score s, give"),
        (prediction("a", "x", float("nan")), ("x",), r"no_answer_probability=nan is not in \[0, 1\]"),
    ],
)
def test_rows_that_have_no_score_are_refused(row, golds, message):
    metric = load_metric("squad_v2" if "no_answer_probability" in row else "squad")
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=[row], references=[reference("a", *golds)])


TEXT = (
    "the The a an An cat cats black-cat U.S. 1,000 1000 Oxford, “quoted” ÉCOLE école naïve sat. sat 東京 to be or not "
    "a.b ab — x-ray"
)


def made_up_questions(seed, number, *, second):
    """Id, golds, prediction, probability of no answer; many predictions are near a gold, of the second version some
    questions have no gold and some texts are nothing but articles."""
    draw, words = random.Random(seed), TEXT.split()
    rows = []
    for index in range(number):
        golds = [" ".join(draw.choices(words, k=draw.randint(1, 5))) for _ in range(draw.randint(1, 3))]
        if second and draw.random() < 0.35:
            golds = []
        if not second:
            golds = [f"{gold} cat" for gold in golds]
        given = (draw.choice(golds) if golds else draw.choice(words)).split()
        kind = draw.random()
        if kind < 0.3:
            given = given[: draw.randint(1, len(given))]
        elif kind < 0.6:
            given.insert(draw.randint(0, len(given)), draw.choice(words))
        elif kind < 0.75 and second:
            given = []
        rows.append((f"q{index}", golds, " ".join(given), draw.random()))
    return rows


OFFICIAL = {
    1.0: {
        "exact": 40.333333333333336,
        "f1": 55.320298220298234,
        "HasAns_f1": 71.40788077296013,
        "NoAns_f1": 27.92792792792793,
    },
    0.5: {
        "exact": 39.333333333333336,
        "f1": 47.02573352573353,
        "HasAns_f1": 38.6651854905823,
        "NoAns_f1": 61.26126126126126,
    },
}
BEST = {
    "best_exact": 40.333333333333336,
    "best_exact_thresh": 0.24709640398768273,
    "best_f1": 50.4240019240019,
    "best_f1_thresh": 0.9625770244136284,
}


@pytest.mark.parametrize("threshold", [1.0, 0.5])
def test_the_second_version_equals_the_official_script(threshold):
    """`OFFICIAL` and `BEST` are what its port in transformers 4.57.1, `squad_evaluate`, gives for these rows."""
    rows = made_up_questions(0, 300, second=True)
    pairs = [(prediction(name, text, none), reference(name, *golds)) for name, golds, text, none in rows]
    results = second_version(pairs, no_answer_threshold=threshold)
    assert results == pytest.approx(results | OFFICIAL[threshold] | BEST)
    assert (results["HasAns_total"], results["NoAns_total"]) == (189, 111)


def test_the_first_version_equals_the_official_script():
    """The values are those of its port in torchmetrics 1.9.0, `SQuAD`, in float32."""
    rows = made_up_questions(1, 300, second=False)
    results = load_metric("squad").compute(
        predictions=[prediction(name, text) for name, _, text, _ in rows],
        references=[reference(name, *golds) for name, golds, _, _ in rows],
    )
    assert results == pytest.approx({"exact_match": 57.0, "f1": 89.32539367675781}, rel=1e-6)
