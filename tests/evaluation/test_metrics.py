"""The metrics of GLUE against scikit-learn and SciPy, and how a task's metric is found."""

import ast
import importlib.util
import json
from pathlib import Path

import evaluate
import numpy as np
import pytest
from datasets import Dataset
from scipy import stats
from sklearn import metrics

from homodistil_hf.evaluation import metrics as task_metrics
from homodistil_hf.evaluation.glue import metrics as glue_metrics
from homodistil_hf.evaluation.glue.data import GLUE_TASKS
from homodistil_hf.evaluation.glue.metrics import GlueMetric
from homodistil_hf.evaluation.metrics import METRIC_TASKS, constant_score, load_metric, main_metrics, task_score
from homodistil_hf.evaluation.squad import metrics as squad_metrics
from homodistil_hf.evaluation.task_data import TaskData

GLUE_METRICS = {task.name: task.metrics for task in GLUE_TASKS.values()}
CLASSIFICATION = [task for task in GLUE_METRICS if task != "stsb"]
REFERENCE = {
    "accuracy": lambda given, wanted: np.mean(np.asarray(given) == np.asarray(wanted)),
    "f1": lambda given, wanted: metrics.f1_score(wanted, given, zero_division=0.0),
    "matthews_correlation": lambda given, wanted: metrics.matthews_corrcoef(wanted, given),
}


def computed(task, given, wanted):
    return load_metric(task).compute(predictions=given, references=wanted)


def test_every_task_has_its_official_metrics():
    assert {task: set(names) for task, names in GLUE_METRICS.items()} == {
        "cola": {"matthews_correlation"},
        "sst2": {"accuracy"},
        "mrpc": {"accuracy", "f1"},
        "stsb": {"pearson", "spearmanr"},
        "qqp": {"accuracy", "f1"},
        "mnli": {"accuracy"},
        "qnli": {"accuracy"},
        "rte": {"accuracy"},
        "wnli": {"accuracy"},
    }
    assert [*METRIC_TASKS] == [*GLUE_METRICS, "squad", "squad_v2"]


@pytest.mark.parametrize("task", METRIC_TASKS)
def test_every_metric_is_a_module_of_evaluate(task):
    metric = load_metric(task)
    assert isinstance(metric, evaluate.Metric)
    assert set(metric.features) == {"predictions", "references"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", CLASSIFICATION)
def test_classification_equals_scikit_learn(task, seed):
    generator = np.random.default_rng(seed)
    given, wanted = generator.integers(0, 3 if task == "mnli" else 2, (2, 57))
    assert computed(task, given, wanted) == {name: REFERENCE[name](given, wanted) for name in GLUE_METRICS[task]}


@pytest.mark.parametrize("seed", range(3))
def test_similarity_equals_scipy(seed):
    generator = np.random.default_rng(seed)
    wanted = generator.integers(0, 26, 43) / 5  # with ties
    given = wanted + generator.normal(size=43)
    expected = {
        "pearson": stats.pearsonr(wanted, given).statistic,
        "spearmanr": stats.spearmanr(wanted, given).statistic,
    }
    assert computed("stsb", given, wanted) == pytest.approx(expected, rel=1e-12)


def test_similarity_by_hand():
    results = computed("stsb", [1.0, 2.0, 3.0, 10.0], [1.0, 2.0, 4.0, 3.0])
    # Deviations −3 −2 −1 6 and −1.5 −0.5 1.5 0.5: 7 / √(50 · 5). Ranks differ by 1 twice: 1 − 6·2 / (4·15).
    assert results == pytest.approx({"pearson": 7 / 250**0.5, "spearmanr": 0.8})


@pytest.mark.parametrize("wanted", [[0, 1, 1, 0, 1], [0] * 5, [1] * 5], ids=["both", "zeros", "ones"])
@pytest.mark.parametrize("constant", [0, 1])
@pytest.mark.parametrize("task", ["cola", "mrpc", "sst2"])
@pytest.mark.filterwarnings("error:::homodistil_hf", "error:::sklearn")
def test_constant_predictions_have_a_score(task, constant, wanted):
    given = [constant] * 5
    results = computed(task, given, wanted)
    expected = {
        "matthews_correlation": 0.0,
        "accuracy": wanted.count(constant) / 5,
        "f1": 2 * sum(wanted) / (5 + sum(wanted)) if constant else 0.0,
    }
    assert results == pytest.approx({name: expected[name] for name in GLUE_METRICS[task]})


@pytest.mark.parametrize(
    ("given", "wanted"), [([2.5] * 4, [1, 2, 3, 4]), ([1, 2, 3, 4], [2.5] * 4), ([1], [2])], ids=str
)
@pytest.mark.filterwarnings("error")
def test_undefined_correlations_are_zero(given, wanted):
    assert computed("stsb", given, wanted) == {"pearson": 0.0, "spearmanr": 0.0}


def test_values_are_plain_numbers():
    for task in GLUE_METRICS:
        results = computed(task, np.array([0, 1, 1]), np.array([0, 1, 0]))
        assert {type(value) for value in results.values()} == {float}
        assert json.loads(json.dumps(results)) == results


def test_a_metric_can_be_used_again_and_in_batches():
    metric = load_metric("mrpc")
    whole = metric.compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 1])
    metric.add_batch(predictions=[0, 1], references=[0, 1])
    metric.add_batch(predictions=[1, 0], references=[0, 1])
    assert metric.compute() == whole == {"accuracy": 0.5, "f1": 0.5}


def test_nothing_predicted_is_an_error():
    with pytest.raises(ValueError, match="predictions of cola are empty; expected at least one"):
        computed("cola", [], [])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_predictions_of_a_diverged_model_are_an_error(bad):
    with pytest.raises(ValueError, match=f"predictions of stsb hold {bad}; expected finite numbers"):
        computed("stsb", [1.0, bad], [1.0, 2.0])


def test_unknown_tasks_are_named():
    with pytest.raises(ValueError, match="task='mnli-mm' is unknown; expected one of cola, sst2, .*squad_v2"):
        load_metric("mnli-mm")
    with pytest.raises(ValueError, match="task='glue' is unknown"):
        main_metrics("glue")
    with pytest.raises(ValueError, match="config_name='default' is no GLUE task; expected cola"):
        GlueMetric()


def test_a_missing_extra_is_named(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        glue_metrics.importlib.util, "find_spec", lambda name: None if name == "sklearn" else find_spec(name)
    )
    with pytest.raises(ValueError, match=r"task='cola' needs scikit-learn; install .*'homodistil-hf\[evaluation\]'"):
        load_metric("cola")
    assert load_metric("squad").name == "squad_metric"


@pytest.mark.parametrize("module", [glue_metrics, squad_metrics, task_metrics])
def test_the_extra_is_imported_only_where_it_is_needed(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    at_the_top = {name for node in tree.body for name in imported_names(node)}
    assert not {name for name in at_the_top if name.split(".")[0] in ("sklearn", "scipy")}
    assert "evaluate" in at_the_top


def imported_names(node):
    if isinstance(node, ast.ImportFrom):
        return {node.module or ""}
    return {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()


def test_the_score_of_a_task_is_the_mean_of_its_main_metrics():
    assert main_metrics("stsb") == ("pearson", "spearmanr")
    assert main_metrics("squad_v2") == ("f1",)
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
