"""Pairs as people have them: two columns, maybe labels, and the scores of an order by these."""

import logging

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from tiny_embeddings import make_reranker
from tiny_models import tiny_tokenizer
from transformers import AutoModelForSequenceClassification

from homodistil_hf.embedding.metrics import ranking_scores, retrieval_scores
from homodistil_hf.embedding.reranker import PairReader, pairs_in

ROWS = {"query": ["w5", "w5", "w6", "w6"], "passage": ["w7", "w8", "w9", "w10"], "label": [1, 0, 0, 1]}


def reader(folder):
    model = AutoModelForSequenceClassification.from_pretrained(make_reranker(folder))
    return model, PairReader(model.config, tiny_tokenizer(), 16)


def test_graded_labels_are_scored_as_scikit_learn_does():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    draw = np.random.default_rng(0)
    scores, labels = draw.normal(size=(5, 14)), draw.integers(0, 4, (5, 14)).astype(float)
    found = ranking_scores(scores.ravel(), labels.ravel(), [f"q{row}" for row in range(5) for _ in range(14)])
    assert found["ndcg_at_10"] == pytest.approx(metrics.ndcg_score(labels, scores, k=10))


def test_one_right_passage_a_query_is_scored_as_a_retrieval():
    queries, documents = torch.randn(6, 8), torch.randn(20, 8)
    answers = [3, 0, 7, 7, 19, 11]
    expected = retrieval_scores(queries, documents, answers, similarity="dot")
    scores, labels = (queries @ documents.T).double().numpy(), np.zeros((6, 20))
    labels[range(6), answers] = 1
    found = ranking_scores(scores.ravel(), labels.ravel(), [f"q{row}" for row in range(6) for _ in range(20)])
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_the_order_is_that_of_each_query_and_equal_scores_are_wrong_first():
    scores, labels = np.array([0.5, 0.5, 9.0, 8.0, 1.0]), np.array([1.0, 0.0, 2.0, 1.0, 7.0])
    found = ranking_scores(scores, labels, ["a", "a", "b", "b", "alone"])
    assert found["mrr_at_10"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["ndcg_at_10"] == pytest.approx((1 / np.log2(3) + 1) / 2)
    assert ranking_scores(scores[2:], labels[2:], ["b", "c", "d"]).keys() == {"spearman"}


def test_labels_below_0_are_raised():
    scores, labels = np.array([3.0, 2.0, 1.0]), np.array([-1.0, 1.0, 0.0])
    assert ranking_scores(scores, labels, ["q"] * 3) == ranking_scores(scores, labels + 1, ["q"] * 3)


def test_a_model_is_graded_by_known_labels_alone(tmp_path):
    model, pairs = reader(tmp_path / "model")
    grade = pairs.grading_of([pairs_in(Dataset.from_dict(ROWS))])
    with torch.no_grad():
        inputs = tiny_tokenizer()(ROWS["query"], ROWS["passage"], return_tensors="pt", padding=True)
        scores = model.eval()(**inputs).logits[:, 0].numpy()
    assert grade(model) == pytest.approx(ranking_scores(scores, np.array(ROWS["label"]), ROWS["query"]))
    more = {"query": ["w7 w7 w7"], "passage": ["w9 w9"], "label": [None]}
    rows = Dataset.from_dict({name: more[name] + values for name, values in ROWS.items()})
    other = Dataset.from_dict({"question": ["w9"], "passage": ["w11"], "score": [0.5]})
    assert pairs.grading_of([pairs_in(rows)])(model) == pytest.approx(grade(model))
    assert pairs.grading_of([pairs_in(rows), pairs_in(other)])(model) != grade(model)


@pytest.mark.parametrize("labels", [[1] * 4, [None] * 4])
def test_labels_that_are_all_alike_measure_nothing(tmp_path, caplog, labels):
    rows = Dataset.from_dict(ROWS | {"label": labels})
    with caplog.at_level(logging.WARNING):
        assert reader(tmp_path / "model")[1].grading_of([pairs_in(rows)]) is None
    assert ("train_data: all labels are alike" in caplog.text) == (labels[0] == 1)


def test_pairs_without_a_text_are_left_out_and_labels_stay_beside_theirs():
    rows = Dataset.from_dict(ROWS | {"passage": ["w7", "", None, "w10"]})
    assert pairs_in(rows).rows["label"][:] == [1, 1]
    assert pairs_in(Dataset.from_dict(ROWS)).columns.describe() == "texts in 'query' and 'passage', labels in 'label'"
    missing = Dataset.from_dict(ROWS).cast_column("label", ClassLabel(names=["no", "yes"]))
    assert pairs_in(missing, label_column="label").columns.labels == ("label",)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"text": ["w5"]},
            "train_data has the columns text; a reranker reads pairs of texts: rename two to",
        ),
        (
            {"query": ["w5"], "passage": [""]},
            "train_data: no pair of two texts; name other text_columns",
        ),
        ({"query": ["w5"], "passage": [7]}, "column 'passage' holds int64; expected a text a row"),
    ],
)
def test_other_rows_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        pairs_in(Dataset.from_dict(columns))


def test_a_label_that_is_no_number_is_refused(tmp_path):
    rows = Dataset.from_dict(ROWS | {"label": ["yes", "no", "no", "yes"]})
    with pytest.raises(ValueError, match="train_data: column 'label' has the label 'yes'; expected a finite number"):
        reader(tmp_path / "model")[1].grading_of([pairs_in(rows)])
