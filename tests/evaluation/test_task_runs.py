"""Seeds, learning rates, records and summaries, with a stand-in for the training."""

import dataclasses
import json
import statistics

import pytest
import torch
from tiny_glue import NUM_DEV, NUM_TRAIN, FakeMeasure, tiny_evaluated, write_task
from tiny_models import tiny_tokenizer
from transformers import BertTokenizer

from homodistil_hf.evaluation import GlueSettings
from homodistil_hf.evaluation.evaluated_model import read_summary
from homodistil_hf.evaluation.fine_tuning import LEAST_STEPS
from homodistil_hf.evaluation.task_runs import evaluate_tasks
from homodistil_hf.tasks.glue import load_task


@pytest.fixture(scope="module")
def rte(tmp_path_factory):
    """Rows of a tiny RTE."""
    write_task(folder := tmp_path_factory.mktemp("glue data"), "rte")
    return load_task("rte", folder)


@pytest.fixture
def evaluate(tmp_path, rte):
    """Evaluate a tiny model on a tiny RTE without training anything."""

    def run(measure=None, *, evaluated=None, data=rte, say=lambda line: None, **settings):
        evaluated = evaluated or tiny_evaluated(tmp_path / "results")
        rate = {} if "learning_rates" in settings else {"learning_rate": 1e-4}
        values = GlueSettings(**{"seeds": (0, 1, 2)} | rate | settings)
        return evaluate_tasks(evaluated, [data], measure or FakeMeasure(), settings=values, say=say)

    return run


def record_of(tmp_path, name):
    return json.loads((tmp_path / "results" / f"{name}.json").read_text())


# Seeds


def test_a_score_is_the_mean_over_seeds(evaluate):
    measure = FakeMeasure(lambda learning_rate, seed: (0.5, 0.6, 0.85)[seed])
    found = evaluate(measure)["tasks"]["rte"]
    assert found["score"] == {"mean": pytest.approx(0.65), "std": pytest.approx(statistics.stdev((0.5, 0.6, 0.85)))}
    assert found["metrics"]["accuracy"] == found["score"]
    assert (found["seeds"], found["scores"]) == ([0, 1, 2], [0.5, 0.6, 0.85])
    assert [call["seed"] for call in measure.calls] == [0, 1, 2]


def test_a_finished_seed_is_not_run_again(evaluate, tmp_path):
    first = evaluate(seeds=(0, 1))
    measure, lines = FakeMeasure(), []
    assert evaluate(measure, seeds=(0, 1), say=lines.append) == first
    assert measure.calls == []
    assert lines.pop(0).endswith(" in validation; read: sentence1, sentence2, label; not read: idx")
    assert all("read from an earlier evaluation" in line for line in lines)
    assert evaluate(measure, seeds=(2,))["tasks"]["rte"]["seeds"] == [0, 1, 2]
    assert [call["seed"] for call in measure.calls] == [2]


def test_the_result_is_of_the_settings_that_were_asked_for_last(evaluate):
    wanted = {"seeds": (0,), "learning_rate": 1e-4}
    first = evaluate(**wanted)
    evaluate(FakeMeasure(), seeds=(1,), learning_rate=3e-3)
    assert evaluate(FakeMeasure(), **wanted)["tasks"] == first["tasks"]


@pytest.mark.parametrize("damage", ("", "{", '{"sha256": "other"}', "[1]"))
def test_a_damaged_record_is_measured_again(evaluate, tmp_path, damage):
    evaluate()
    (tmp_path / "results" / "rte.seed-1.json").write_text(damage)
    measure = FakeMeasure()
    evaluate(measure)
    assert [call["seed"] for call in measure.calls] == [1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"num_train_epochs": 5},
        {"learning_rate": 1e-3},
        {"max_train_steps": 700},
        {"max_train_samples": 8},
        {"dtype": "float32"},
        {"max_length": 64},
    ],
)
def test_other_settings_are_another_measurement(evaluate, change):
    evaluate(dtype="bfloat16")
    measure = FakeMeasure(lambda learning_rate, seed: 0.75)
    found = evaluate(measure, **{"dtype": "bfloat16", "seeds": (0,)} | change)["tasks"]["rte"]
    assert len(measure.calls) == 1
    assert (found["seeds"], found["scores"]) == ([0], [0.75])


def test_where_data_lie_is_no_setting(evaluate):
    evaluate()
    measure = FakeMeasure()
    evaluate(measure, data_dir="elsewhere")
    assert measure.calls == []


def test_other_rows_or_weights_are_another_measurement(evaluate, rte, tmp_path):
    evaluate()
    measure = FakeMeasure(lambda learning_rate, seed: 0.75)
    evaluate(measure, data=dataclasses.replace(rte, sha256="other"), seeds=(0,))
    other = tiny_evaluated(tmp_path / "results")
    with torch.no_grad():
        other.model.bert.embeddings.LayerNorm.bias[0] += 1e-6
    summary = evaluate(measure, evaluated=other, seeds=(1,))
    assert len(measure.calls) == 2
    assert summary["tasks"]["rte"]["seeds"] == [1]  # nothing of the weights before


def test_a_record_says_what_was_measured_on_what(evaluate, tmp_path):
    evaluate(max_train_samples=10, seeds=(3,))
    record = record_of(tmp_path, "rte.seed-3")
    assert (record["num_train_rows"], record["num_available_rows"]) == (10, NUM_TRAIN)
    assert record["num_dev_rows"] == {"validation": NUM_DEV}
    assert record["conditions"]["learning_rate"] == 1e-4
    assert record["model"]["name"] == "tiny"
    assert "torch" in record["versions"]


def test_both_dev_sets_count_alike(evaluate, rte):
    both = {"validation_matched": rte.dev["validation"], "validation_mismatched": rte.dev["validation"].select([0, 1])}
    scores = iter([0.8, 0.6])

    def measure(*args, **kwargs):
        found, trained = FakeMeasure()(*args, **kwargs)
        return {name: {"accuracy": next(scores)} for name in found}, trained

    data = dataclasses.replace(rte, task="mnli", name="mnli", dev=both)
    found = evaluate(measure, data=data, seeds=(0,))["tasks"]["mnli"]
    assert found["metrics"]["accuracy"]["mean"] == 0.8
    assert found["metrics"]["accuracy_mismatched"]["mean"] == 0.6
    assert found["score"]["mean"] == pytest.approx(0.7)
    assert found["num_dev_rows"] == {"validation_matched": NUM_DEV, "validation_mismatched": 2}


# Learning rates


def test_a_learning_rate_is_chosen_on_held_out_training_rows(evaluate):
    measure = FakeMeasure(lambda learning_rate, seed: {1e-4: 0.5, 3e-4: 0.7, 1e-3: 0.6}[learning_rate])
    found = evaluate(measure, learning_rates=(1e-3, 1e-4, 3e-4), seeds=(4, 5))["tasks"]["rte"]
    searched, final = measure.calls[:3], measure.calls[3:]
    assert [(call["learning_rate"], call["seed"]) for call in searched] == [(1e-4, 4), (3e-4, 4), (1e-3, 4)]
    for call in searched:
        assert list(call["measured_on"]) == ["held_out"]
        assert sorted([*call["rows"], *call["measured_on"]["held_out"]]) == list(range(NUM_TRAIN))
    assert [(call["learning_rate"], call["seed"], len(call["rows"])) for call in final] == [
        (3e-4, 4, NUM_TRAIN),
        (3e-4, 5, NUM_TRAIN),
    ]
    assert all(list(call["measured_on"]) == ["validation"] for call in final)
    assert found["conditions"]["learning_rate"] == 3e-4
    assert found["conditions"]["learning_rates"] == [1e-4, 3e-4, 1e-3]
    again = FakeMeasure()
    evaluate(again, learning_rates=(3e-4, 1e-4, 1e-3), seeds=(4, 5))
    assert again.calls == []


def test_without_a_rate_the_same_three_are_tried_for_every_model(evaluate):
    measure = FakeMeasure(lambda learning_rate, seed: learning_rate)
    found = evaluate(measure, learning_rate=None, seeds=(0,))["tasks"]["rte"]
    assert [call["learning_rate"] for call in measure.calls] == [1e-4, 3e-4, 6e-4, 6e-4]
    assert (found["conditions"]["learning_rate"], found["conditions"]["learning_rates"]) == (6e-4, [1e-4, 3e-4, 6e-4])


def test_a_single_rate_is_not_searched(evaluate):
    measure = FakeMeasure()
    found = evaluate(measure, learning_rates=(3e-4,), seeds=(0,))["tasks"]["rte"]
    assert [call["learning_rate"] for call in measure.calls] == [3e-4]
    assert found["conditions"]["learning_rate"] == 3e-4
    assert "learning_rates" not in found["conditions"]


@pytest.mark.parametrize(("given", "searched"), [({}, LEAST_STEPS), ({"max_train_steps": 5}, 5)])
def test_a_search_takes_no_more_steps_than_few_rows_do(evaluate, given, searched):
    measure = FakeMeasure()
    evaluate(measure, learning_rate=None, num_train_epochs=1000, seeds=(0,), **given)
    assert [call["max_train_steps"] for call in measure.calls] == [*[searched] * 3, given.get("max_train_steps")]


def test_a_record_has_the_score_of_the_most_frequent_label(evaluate, rte):
    found = evaluate(seeds=(0,))["tasks"]["rte"]
    most = statistics.mode(rte.train["label"][:])
    assert found["constant_score"] == pytest.approx(rte.dev["validation"]["label"][:].count(most) / NUM_DEV)


def test_of_equals_the_lowest_learning_rate_is_taken(evaluate):
    found = evaluate(learning_rates=(3e-4, 1e-4), seeds=(0,))["tasks"]["rte"]
    assert found["conditions"]["learning_rate"] == 1e-4


def diverges_above(limit):
    def score(learning_rate, seed):
        if learning_rate > limit:
            raise FloatingPointError("diverged")
        return 0.5

    return score


def test_a_learning_rate_that_diverges_is_not_taken(evaluate, tmp_path):
    lines = []
    measure = FakeMeasure(diverges_above(2e-4))
    found = evaluate(measure, learning_rates=(1e-4, 1.0), seeds=(0,), say=lines.append)["tasks"]["rte"]
    assert found["conditions"]["learning_rate"] == 1e-4
    assert record_of(tmp_path, "rte.learning-rate-1")["diverged"] == "diverged"
    assert lines[1] == "rte: trying 2 learning rates, 600 steps each at most"
    assert any("learning rate 1: diverged" in line for line in lines)
    with pytest.raises(FloatingPointError, match=r"rte: learning_rates=\[1.0, 2.0\] all diverge; try lower ones"):
        evaluate(measure, learning_rates=(1.0, 2.0), seeds=(0,))


# Summaries


def test_a_summary_is_made_of_all_records(evaluate, rte, tmp_path):
    evaluate(seeds=(0,))
    summary = evaluate(data=dataclasses.replace(rte, name="rte_part"), seeds=(1,))
    assert summary["tasks"].keys() == {"rte", "rte_part"}
    assert summary == read_summary(tmp_path / "results")
    assert summary["model"]["num_parameters"] == sum(
        parameter.numel() for parameter in tiny_evaluated(tmp_path).model.parameters()
    )


def test_other_files_in_the_folder_are_no_results(evaluate, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine.json").write_text('{"model": "x", "seed": 3}')
    (tmp_path / "results" / "list.json").write_text("[]")
    assert evaluate()["tasks"].keys() == {"rte"}


def test_no_summary_is_none_and_a_foreign_one_an_error(tmp_path):
    assert read_summary(tmp_path) is None
    (tmp_path / "summary.json").write_text('{"tasks": 3}')
    with pytest.raises(ValueError, match="is no summary of evaluations; evaluate again"):
        read_summary(tmp_path)


def test_a_measurement_that_fails_leaves_no_record(tmp_path):
    evaluated = tiny_evaluated(tmp_path / "results")

    def fail(folder):
        raise FloatingPointError("diverged")

    with pytest.raises(FloatingPointError, match="diverged"):
        evaluated.measured("rte.seed-0", {}, fail)
    assert not (tmp_path / "results").exists()
    assert evaluated.summarize()["tasks"] == {}


def test_another_reading_of_the_same_words_is_measured_anew(tmp_path):
    cased = BertTokenizer(vocab=tiny_tokenizer().get_vocab(), do_lower_case=False)
    evaluated = tiny_evaluated(tmp_path / "results")
    before = evaluated.sha256
    evaluated.tokenizer(["a b"] * 3, padding=True, truncation=True, max_length=8)
    assert dataclasses.replace(evaluated).sha256 == before
    assert dataclasses.replace(evaluated, tokenizer=cased).sha256 != before
