"""Rerankers in every way that a run can go, as tests/methods/test_task_kinds.py has it for tasks of one text.

The ways: JSON, flags, Python, without labels, two ranks, resumed, a chain of sizes; and what comes out.
"""

import json
import math
from pathlib import Path

import pytest
from datasets import Dataset
from task_rows import SMALL, assert_goes_on, closing_code, short_run
from tiny_embeddings import make_reranker
from tiny_files import own_cache
from transformers import AutoConfig, AutoTokenizer, pipeline

from homodistil_hf.cli import main
from homodistil_hf.embedding.reranker import RerankerDistilArguments, RerankerDistilTrainer, pairs_in
from homodistil_hf.export.facts import read_facts
from homodistil_hf.runs.config import run_of as settings_of
from homodistil_hf.runs.distill import run
from homodistil_hf.runs.kinds import run_kind_of
from homodistil_hf.tasks.held_out import keep_aside

pytestmark = pytest.mark.slow

RANKING_METRICS = ("ndcg_at_10", "mrr_at_10", "spearman")


def rows(*, has_labels=True):
    """Three passages a query, of graded worth."""
    found = [
        {"query": f"w{10 + query} w{20 + query}", "passage": "w7 " * worth + f"w{30 + query}", "relevance": worth}
        for query in range(20)
        for worth in range(3)
    ]
    table = Dataset.from_list(found)
    return table if has_labels else table.remove_columns("relevance")


def write(folder, *, has_labels=True, **settings):
    """Teacher and rows; the settings of a short run on them."""
    make_reranker(folder / "teacher")
    rows(has_labels=has_labels).to_parquet(folder / "rows.parquet")
    return short_run(folder, folder / "rows.parquet") | {"learning_rate": 1e-2} | settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Settings, lines and results of a run with labels."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("labelled")
        own_cache(monkeypatch, folder / "cache")
        settings, lines = write(folder), []
        results = run(settings_of(settings, "settings"), lines.append)
    return settings, lines, results


def test_the_order_is_measured_by_labels_beside_the_teacher(finished):
    settings, lines, results = finished
    said = "rows: texts in 'query' and 'passage', labels in 'relevance', which the order is measured by"
    assert lines[0].endswith(said)
    count = "6 of 60 rows of train_data are kept aside"
    assert lines[1] == f"eval_data is not set: {count}, all rows of a 'query' together"
    assert lines[2] == "max_seq_length=16: 99 of 100 rows fit, longer ones are cut; 32 are possible"
    assert results["rows"]["label_columns"] == ["relevance"]
    assert (results["rows"]["num_train_rows"], results["rows"]["num_eval_rows"]) == (54, 6)
    folder = Path(settings["output_dir"])
    facts, text = (
        read_facts(folder / "student"),
        run_kind_of(settings_of(settings, "it")).summary(results, str(folder)),
    )
    assert facts["data"]["max_tokens"] == 16
    for model, section in zip(results["models"], ("teacher_evaluation", "evaluation"), strict=True):
        assert all(math.isfinite(model[name]) for name in (*RANKING_METRICS, "correlation"))
        assert {name: facts[section][name] for name in RANKING_METRICS} == {
            name: model[name] for name in RANKING_METRICS
        }
        assert f"{model['ndcg_at_10']:.3f}" in text
    assert "nDCG@10" in text
    for file in (folder / "student" / "README.md", folder / "report.html"):
        assert "nDCG@10 of the order, by the labels" in file.read_text(encoding="utf-8")


def test_a_pipeline_and_a_stock_class_take_the_student(finished):
    settings, _, _ = finished
    export = f"{settings['output_dir']}/student"
    config = AutoConfig.from_pretrained(export)
    assert (config.architectures, config.hidden_size) == (["BertForSequenceClassification"], 16)
    scorer = pipeline("text-classification", export, function_to_apply="none", device="cpu")
    first, second = (scorer({"text": "w10 w20", "text_pair": text}) for text in ("w7 w7 w30", "w40"))
    assert first != second
    assert main(["verify", export]) == 0


def test_the_closing_lines_run(finished, capsys):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    settings, _, results = finished
    names = {}
    exec(closing_code(run_kind_of(settings_of(settings, "it")).summary(results, settings["output_dir"])), names)
    assert type(names["model"]).__name__ == "CrossEncoder"
    assert len(capsys.readouterr().out.split()) == 1  # a score


def test_in_python_rows_have_their_columns(finished, tmp_path):
    """Of pairs the trainer makes the command's rows, and grades held-out ones by their labels."""
    settings, _, results = finished
    train, aside, _ = keep_aside(rows(), pairs_in(rows()).columns, together="query")
    own = {name: value for name, value in settings.items() if name not in ("teacher", "train_data", "output_dir")}
    trainer = RerankerDistilTrainer(
        settings["teacher"],
        RerankerDistilArguments(str(tmp_path / "run"), **own),
        train_dataset=train,
        eval_dataset=aside,
        processing_class=AutoTokenizer.from_pretrained(settings["teacher"]),
    )
    assert len(trainer.train_dataset) == 2 * len(train)
    trainer.train()
    found = trainer.evaluate()
    assert {f"eval_{name}" for name in (*RANKING_METRICS, "correlation")} <= found.keys()
    given = trainer.evaluate(aside)
    assert {name: given[f"eval_{name}"] for name in RANKING_METRICS} == {
        name: found[f"eval_{name}"] for name in RANKING_METRICS
    }
    teacher = trainer.evaluate_teacher()
    assert {name: teacher[name] for name in RANKING_METRICS} == {
        name: results["models"][0][name] for name in RANKING_METRICS
    }


def test_triplets_are_a_rerankers_rows(tmp_path):
    triplets = [{"query": f"w{n} w5", "positive": f"w7 w{n}", "negative": f"w8 w{n}", "id": n} for n in range(10, 50)]
    settings = write(tmp_path)
    Dataset.from_list(triplets).to_json(tmp_path / "triplets.jsonl")
    settings |= {"train_data": [str(tmp_path / "triplets.jsonl")], "max_steps": 1}
    results = run(settings_of(settings, "settings"), (lines := []).append)
    made = "each 'query' makes pairs with its 'positive' (label 1), 'negative' (label 0)"
    assert lines[0] == f"train_data: {made}; read: query, positive, negative; not read: id"
    assert (results["rows"]["num_train_rows"], results["rows"]["num_eval_rows"]) == (72, 8)
    assert results["rows"]["label_columns"] == ["label"]


def test_without_labels_only_the_teacher_is_compared(tmp_path):
    lines = []
    results = run(settings_of(write(tmp_path, has_labels=False), "settings"), lines.append)
    line = "teacher scores pairs of texts: a reranker (if it is a regression: method=homodistil); rows: texts in "
    assert lines[0].endswith(f"{line}'query' and 'passage', no labels")
    assert -1 <= results["models"][1]["correlation"] <= 1
    assert not {*RANKING_METRICS} & results["evaluation"].keys()


def test_labels_of_any_column_and_of_other_rows(tmp_path):
    settings = write(tmp_path, max_steps=1, save_strategy="no")
    other = rows().rename_columns({"relevance": "clicks"}).select(range(0, 30))
    other.to_csv(tmp_path / "held.csv")
    rows().rename_columns({"relevance": "clicks"}).to_parquet(tmp_path / "rows.parquet")
    settings |= {"eval_data": [str(tmp_path / "held.csv")], "max_seq_length": 12}
    lines = []
    run(settings_of(settings | {"output_dir": str(tmp_path / "unnamed")}, "it"), lines.append)
    assert lines[0].endswith("no labels (if there are some in clicks: method=reranker and label_column)")
    named = {"method": "reranker", "label_column": "clicks"}
    results = run(settings_of(settings | named, "settings"), lambda line: None)
    assert results["rows"]["max_seq_length"] == 12
    assert results["models"][1]["ndcg_at_10"] > 0


def test_a_resumed_run_ends_as_it_did(finished, tmp_path):
    settings, _, results = finished
    assert_goes_on(settings, results, tmp_path)


def test_a_chain_of_sizes_is_measured_alike(tmp_path):
    chain = {"student": [SMALL, SMALL | {"intermediate_size": 16}], "save_strategy": "no", "max_steps": 2}
    results = run(settings_of(write(tmp_path, **chain), "settings"), lambda line: None)
    assert len(results["models"]) == 3
    (small,) = (tmp_path / "run").glob("2-*")
    assert AutoConfig.from_pretrained(small / "student").intermediate_size == 16
    assert all(0 <= one["ndcg_at_10"] <= 1 for one in results["models"])


@pytest.mark.distributed
def test_two_ranks_are_as_one(as_ranks, finished, tmp_path):
    settings = write(tmp_path, per_device_train_batch_size=4, save_strategy="no")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings))
    done = as_ranks(Path(__file__).parents[1] / "support" / "task_ranks.py", config)
    assert done.returncode == 0, done.stderr[-2000:]
    found, alone = json.loads((tmp_path / "run" / "results.json").read_text()), finished[2]
    assert found["evaluation"] == pytest.approx(alone["evaluation"], rel=1e-3, abs=1e-4)
    for name in RANKING_METRICS:
        assert found["models"][0][name] == pytest.approx(alone["models"][0][name], rel=1e-5, abs=1e-6)
    assert found["rows"] == alone["rows"]
